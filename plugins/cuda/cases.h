// The table of cases that the kernels and the plugin must pass, with the core run on the host as the expectation.
// The core proves itself elsewhere (against float64 and PyTorch); here the launch, the layouts and the types are on
// trial.
#pragma once

#include "cuda/grid_sample.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

namespace posewarp::cases
{

struct Case
{
    Sizes sizes;
    Attributes attributes;
    Type type;
    Layout layout;

    size_t elementBytes() const
    {
        return type == Type::kFLOAT ? 4 : 2;
    }

    // Channels as they lie in memory.
    int64_t lanes() const
    {
        return layout == Layout::kHWC8 ? (sizes.channels + 7) / 8 * 8 : sizes.channels;
    }

    size_t place(int64_t batch, int64_t channel, int64_t pixel, int64_t pixels) const
    {
        return layout == Layout::kHWC8 ? (batch * pixels + pixel) * lanes() + channel
                                       : (batch * sizes.channels + channel) * pixels + pixel;
    }

    std::string describe() const
    {
        char text[256];
        std::snprintf(text, sizeof(text),
            "%d-D (%lld, %lld, %lld, %lld, %lld) at (%lld, %lld, %lld), mode %d, padding %d, align_corners %d, type "
            "%d, "
            "layout %d",
            sizes.spatialRank + 2, (long long)sizes.batch, (long long)sizes.channels, (long long)sizes.depth,
            (long long)sizes.height, (long long)sizes.width, (long long)sizes.outDepth, (long long)sizes.outHeight,
            (long long)sizes.outWidth, (int)attributes.mode, (int)attributes.padding, attributes.alignCorners,
            (int)type, (int)layout);
        return text;
    }
};

struct Data
{
    std::vector<unsigned char> features; // as it lies in memory; the padding lanes of kHWC8 hold NaN
    std::vector<float> grid;
    std::vector<float> expected; // (N, C, points), before rounding to the type
};

inline float readElement(Type type, std::vector<unsigned char> const& bytes, size_t index)
{
    uint16_t half;
    if (type == Type::kFLOAT)
    {
        float value;
        std::memcpy(&value, bytes.data() + index * 4, 4);
        return value;
    }
    std::memcpy(&half, bytes.data() + index * 2, 2);
    return type == Type::kHALF ? __half2float(__half(__half_raw{half}))
                               : __bfloat162float(__nv_bfloat16(__nv_bfloat16_raw{half}));
}

inline void writeElement(Type type, std::vector<unsigned char>& bytes, size_t index, float value)
{
    if (type == Type::kFLOAT)
    {
        std::memcpy(bytes.data() + index * 4, &value, 4);
        return;
    }
    uint16_t const half
        = type == Type::kHALF ? __half_raw(__float2half_rn(value)).x : __nv_bfloat16_raw(__float2bfloat16_rn(value)).x;
    std::memcpy(bytes.data() + index * 2, &half, 2);
}

// All modes, paddings and alignments, in each type and layout: odd sizes, channels beside a multiple of 8, one pixel,
// empty outputs, volumes, images enough for the NCHW kernel's most channels a thread; `crowds` adds more images, and
// more points, than a launch has blocks.
inline std::vector<Case> makeCases(bool crowds)
{
    std::vector<Sizes> shapes{{2, 1, 3, 1, 5, 7, 1, 4, 6}, {2, 3, 8, 1, 16, 11, 1, 9, 13},
        {2, 2, 21, 1, 13, 9, 1, 17, 10}, {2, 1, 4200, 1, 3, 2, 1, 2, 3}, {2, 2, 5, 1, 1, 1, 1, 3, 2},
        {2, 1, 19, 1, 24, 20, 1, 24, 20}, {2, 0, 4, 1, 5, 5, 1, 3, 3}, {2, 2, 0, 1, 5, 5, 1, 3, 3},
        {2, 2, 4, 1, 5, 5, 1, 0, 3}, {3, 1, 3, 3, 4, 5, 2, 3, 4}, {3, 2, 9, 2, 7, 6, 3, 5, 7},
        {3, 2, 2, 1, 1, 1, 2, 2, 2}, {3, 1, 4, 2, 3, 3, 0, 3, 3}, {2, 700, 45, 1, 2, 2, 1, 1, 1}};
    if (crowds)
    {
        shapes.push_back({2, 70000, 1, 1, 2, 2, 1, 1, 1});
        shapes.push_back({2, 1, 1, 1, 3, 3, 1, 4200, 4200});
    }
    std::vector<Case> all;
    for (Sizes const& sizes : shapes)
    {
        for (int i = 0; i < 3 * 3 * 2; ++i)
        {
            Attributes const attributes{static_cast<Mode>(i / 6), static_cast<Padding>(i / 2 % 3), i % 2 == 1};
            bool const crowd = sizes.batch > 512 || sizes.outWidth > 4096;
            if (findProblem(sizes, attributes) != nullptr || (crowd && i != 1))
            {
                continue; // bicubic volumes; and a crowd is slow on the host, and all attributes stride alike
            }
            for (Type const type : {Type::kFLOAT, Type::kHALF, Type::kBFLOAT16})
            {
                if (sizes.channels < 4096) // beyond, only kHWC8 has a case of its own: more vectors than threads
                {
                    all.push_back({sizes, attributes, type, Layout::kNCHW});
                }
            }
            if (sizes.spatialRank == 2)
            {
                all.push_back({sizes, attributes, Type::kHALF, Layout::kHWC8});
            }
        }
    }
    return all;
}

namespace detail
{

struct Reference
{
    Case const& test;
    float const* features; // (N, C, pixels)
    float const* grid;
    float* output;

    template <Mode kMODE, int kRANK> int run() const
    {
        int64_t const points = test.sizes.outPixels();
        int64_t const pixels = test.sizes.pixels();
        for (int64_t i = 0; i < test.sizes.batch * points; ++i)
        {
            auto const taps = locate<kMODE, kRANK>(grid + i * kRANK, test.sizes, test.attributes);
            for (int64_t channel = 0; channel < test.sizes.channels; ++channel)
            {
                int64_t const map = i / points * test.sizes.channels + channel;
                output[map * points + i % points]
                    = sum(taps, [&](int64_t pixel) { return pixel < 0 ? 0.0F : features[map * pixels + pixel]; });
            }
        }
        return 0;
    }
};

} // namespace detail

// Features in [-1, 1), rounded to the type. Positions inside, at the edge, far out, huge, infinite and NaN, but with
// `smooth` a gentle shift of the identity, as a flow has it.
inline Data makeData(Case const& test, bool smooth = false)
{
    Sizes const& sizes = test.sizes;
    int64_t const pixels = sizes.pixels();
    uint64_t state = 20251125;
    auto const random = [&state]
    {
        state = state * 6364136223846793005ULL + 1442695040888963407ULL;
        return static_cast<float>(state >> 40) / static_cast<float>(1 << 24);
    };
    Data data;
    std::vector<float> plain(sizes.batch * sizes.channels * pixels);
    data.features.assign(sizes.batch * test.lanes() * pixels * test.elementBytes(), 0xFF); // NaN in every type
    for (size_t i = 0; i < plain.size(); ++i)
    {
        int64_t const map = i / pixels;
        size_t const place = test.place(map / sizes.channels, map % sizes.channels, i % pixels, pixels);
        writeElement(test.type, data.features, place, 2.0F * random() - 1.0F);
        plain[i] = readElement(test.type, data.features, place);
    }
    data.grid.resize(sizes.batch * sizes.outPixels() * sizes.spatialRank);
    constexpr float kINFINITY = std::numeric_limits<float>::infinity();
    float const odd[] = {-1.0F, 1.0F, 0.0F, 17.5F, -3e9F, 3e38F, kINFINITY, -kINFINITY, NAN};
    for (size_t i = 0; i < data.grid.size(); ++i)
    {
        if (smooth)
        {
            int64_t const point = i / sizes.spatialRank;
            int64_t const column = point % sizes.outWidth, row = point / sizes.outWidth % sizes.outHeight;
            float const place = i % 2 == 0 ? (2 * column + 1.0F) / sizes.outWidth : (2 * row + 1.0F) / sizes.outHeight;
            data.grid[i] = place - 1.0F + 0.05F * std::sin(0.1F * (row + column));
        }
        else
        {
            data.grid[i] = random() < 0.1F ? odd[static_cast<int>(random() * 9)] : 2.6F * random() - 1.3F;
        }
    }
    data.expected.resize(sizes.outElements());
    dispatch(test.attributes.mode, sizes.spatialRank,
        detail::Reference{test, plain.data(), data.grid.data(), data.expected.data()});
    return data;
}

// What is wrong with an output, or "". Positions are bit for bit the host's; what may differ is the sum of up to 16
// products of at most 1.3 (a device fuses multiply and add): a few roundings in fp32, then one step of the type.
inline std::string findDifference(Case const& test, Data const& data, std::vector<unsigned char> const& output)
{
    int64_t const points = test.sizes.outPixels();
    float const step = test.type == Type::kFLOAT ? 0.0F : test.type == Type::kHALF ? 1.0F / 1024 : 1.0F / 128;
    for (int64_t image = 0; image < test.sizes.batch; ++image)
    {
        for (int64_t channel = 0; channel < test.lanes(); ++channel)
        {
            for (int64_t point = 0; point < points; ++point)
            {
                bool const padding = channel >= test.sizes.channels;
                float const got = readElement(test.type, output, test.place(image, channel, point, points));
                float const expected
                    = padding ? 0.0F : data.expected[(image * test.sizes.channels + channel) * points + point];
                float const allowed
                    = padding || test.attributes.mode == Mode::kNEAREST ? 0.0F : 1e-6F + step * std::fabs(expected);
                if (std::isnan(expected) ? !std::isnan(got) : !(std::fabs(got - expected) <= allowed))
                {
                    char text[160];
                    std::snprintf(text, sizeof(text), "image %lld, channel %lld, point %lld: got %.9g, expected %.9g",
                        (long long)image, (long long)channel, (long long)point, got, expected);
                    return text;
                }
            }
        }
    }
    return "";
}

// Runs a case into `output`, all in host memory; returns what went wrong, or "".
using Run = std::function<std::string(Case const& test, Data const& data, std::vector<unsigned char>& output)>;

// Number of failures, each printed. Also looks behind the output's end.
inline int countFailures(std::vector<Case> const& tests, Run const& run)
{
    constexpr size_t kGUARD = 64;
    int failures = 0;
    for (Case const& test : tests)
    {
        Data const data = makeData(test);
        size_t const bytes = test.sizes.batch * test.lanes() * test.sizes.outPixels() * test.elementBytes();
        std::vector<unsigned char> output(bytes + kGUARD, 0xFF);
        std::string problem = run(test, data, output);
        if (problem.empty())
        {
            problem = findDifference(test, data, output);
        }
        if (problem.empty() && std::count(output.end() - kGUARD, output.end(), 0xFF) != kGUARD)
        {
            problem = "bytes behind the output were written";
        }
        if (!problem.empty())
        {
            ++failures;
            std::printf("FAILED %s: %s\n", test.describe().c_str(), problem.c_str());
        }
    }
    return failures;
}

} // namespace posewarp::cases
