// Random calls for a sanitizer to watch: shapes, modes, dtypes, bad coordinates. Each goes through the CPU library,
// and with fp32 features through the core point by point, as a CUDA kernel would.
// Every tenth call is besides a convolution by Winograd's filtering, compared with the plain sum in fp64.
//   fuzz SEED CALLS          every buffer is its own allocation of exactly its size
//   fuzz SEED CALLS planted  and the features are a pixel short, which a sanitizer must report
#include "../../plugins/core/grid_sample.h"
#include "../../plugins/cpu/posewarp_cpu.h"
#include "../../plugins/cpu/threads.h"
#include "../../plugins/cpu/winograd.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <limits>
#include <random>
#include <vector>

namespace
{

std::mt19937_64 sRandom;

int64_t between(int64_t low, int64_t high)
{
    return std::uniform_int_distribution<int64_t>(low, high)(sRandom);
}

float coordinate()
{
    constexpr float kSPECIAL[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
        -std::numeric_limits<float>::infinity(), 3e38F, -3e38F, 2.5e38F, 1e7F, -1e7F, 1e19F, -1e19F, 2147483648.0F, 1.0F,
        -1.0F, 0.0F, std::numeric_limits<float>::denorm_min(), std::numeric_limits<float>::lowest()};
    if (between(0, 4) == 0)
    {
        return kSPECIAL[between(0, std::size(kSPECIAL) - 1)];
    }
    uint32_t const bits = static_cast<uint32_t>(sRandom());
    float any;
    std::memcpy(&any, &bits, sizeof(any));
    return between(0, 9) == 0 ? any : std::uniform_real_distribution<float>(-1.5F, 1.5F)(sRandom);
}

struct PointByPoint
{
    posewarp::Sizes const& mSizes;
    posewarp::Attributes const& mAttributes;
    float const* mFeatures;
    float const* mGrid;

    template <posewarp::Mode kMODE, int kRANK>
    float run() const
    {
        float total = 0;
        int64_t const points = mSizes.outPixels();
        for (int64_t point = 0; point < mSizes.batch * points; ++point)
        {
            auto const taps = posewarp::locate<kMODE, kRANK>(mGrid + point * kRANK, mSizes, mAttributes);
            for (int64_t channel = 0; channel < mSizes.channels; ++channel)
            {
                float const* const plane
                    = mFeatures + (point / points * mSizes.channels + channel) * mSizes.pixels();
                total += posewarp::sum(taps, [=](int64_t pixel) { return pixel < 0 ? 0.0F : plane[pixel]; });
            }
        }
        return total;
    }
};

std::vector<float> randomFloats(int64_t count)
{
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values)
    {
        value = std::uniform_real_distribution<float>(-1.0F, 1.0F)(sRandom);
    }
    return values;
}

// The largest error of a random convolution, as a share of the sum of the absolute products.
double convolve()
{
    using namespace posewarp::cpu;
    int64_t const side = between(0, 9) == 0 ? 70 : 14;
    ConvSizes const sizes{between(1, 2), between(1, 40), between(1, 40), between(1, side), between(1, side)};
    int64_t const pixels = sizes.height * sizes.width;
    std::vector<float> const input = randomFloats(sizes.batch * sizes.inChannels * pixels);
    std::vector<float> const weights = randomFloats(sizes.outChannels * sizes.inChannels * 9);
    std::vector<float> const bias = randomFloats(sizes.outChannels);
    std::vector<float> transformed(countTransformed(sizes.inChannels, sizes.outChannels));
    std::vector<float> output(static_cast<size_t>(sizes.batch * sizes.outChannels * pixels));
    bool const relu = between(0, 1) == 0;
    transformWeights(weights.data(), sizes.inChannels, sizes.outChannels, transformed.data());
    if (winogradConv(input.data(), transformed.data(), {bias.data(), relu}, output.data(), sizes,
            ownThreads(static_cast<int>(between(1, 3))))
        != POSEWARP_OK)
    {
        return 1;
    }
    double worst = 0;
    for (int64_t i = 0; i < static_cast<int64_t>(output.size()); ++i)
    {
        int64_t const x = i % sizes.width, y = i / sizes.width % sizes.height, map = i / pixels;
        int64_t const image = map / sizes.outChannels, k = map % sizes.outChannels;
        double sum = bias[static_cast<size_t>(k)], size = 1;
        for (int64_t c = 0; c < sizes.inChannels; ++c)
        {
            for (int64_t j = 0; j < 9; ++j)
            {
                int64_t const row = y + j / 3 - 1, column = x + j % 3 - 1;
                if (row < 0 || row >= sizes.height || column < 0 || column >= sizes.width)
                {
                    continue;
                }
                int64_t const from = (image * sizes.inChannels + c) * pixels + row * sizes.width + column;
                double const product = static_cast<double>(input[static_cast<size_t>(from)])
                    * static_cast<double>(weights[static_cast<size_t>((k * sizes.inChannels + c) * 9 + j)]);
                sum += product;
                size += std::fabs(product);
            }
        }
        sum = relu ? std::fmax(sum, 0.0) : sum;
        worst = std::fmax(worst, std::fabs(static_cast<double>(output[static_cast<size_t>(i)]) - sum) / size);
    }
    return worst;
}

} // namespace

int main(int count, char** arguments)
{
    if (count < 3)
    {
        return 2;
    }
    sRandom.seed(std::strtoull(arguments[1], nullptr, 10));
    int64_t const missing = count > 3 && std::strcmp(arguments[3], "planted") == 0 ? 1 : 0;
    long const calls = std::strtol(arguments[2], nullptr, 10);
    double sum = 0;
    for (long call = 0; call < calls; ++call)
    {
        int const rank = static_cast<int>(between(2, 3));
        int64_t const largest = between(0, 9) == 0 ? 90 : 12;
        int64_t const batch = between(0, 2), channels = between(0, 19);
        int64_t size[3] = {1, 1, 1}, outSize[3] = {1, 1, 1};
        for (int axis = 3 - rank; axis < 3; ++axis)
        {
            size[axis] = between(1, rank == 2 ? largest : 12);
            outSize[axis] = between(0, rank == 2 ? largest : 12);
        }
        int const dtype = static_cast<int>(between(0, 2));
        size_t const bytes = dtype == POSEWARP_FP32 ? 4 : 2;
        int64_t const elements = batch * channels * size[0] * size[1] * size[2];
        int64_t const points = batch * outSize[0] * outSize[1] * outSize[2];
        std::vector<char> features(bytes * static_cast<size_t>(elements - (elements > 0 ? missing : 0)));
        std::vector<char> output(bytes * static_cast<size_t>(points * channels));
        std::vector<float> grid(static_cast<size_t>(points * rank));
        for (char& byte : features)
        {
            byte = static_cast<char>(sRandom());
        }
        bool const smooth = between(0, 1) == 0;
        for (float& value : grid)
        {
            value = smooth ? std::sin(static_cast<float>(&value - grid.data()) * 0.01F) : coordinate();
        }
        posewarp::Sizes const sizes{
            rank, batch, channels, size[0], size[1], size[2], outSize[0], outSize[1], outSize[2]};
        int const mode = static_cast<int>(between(0, rank == 2 ? 2 : 1)), padding = static_cast<int>(between(0, 2));
        int const alignCorners = static_cast<int>(between(0, 1)), threads = static_cast<int>(between(1, 3));
        int const failed = posewarp_grid_sample(features.data(), dtype, grid.data(), output.data(), rank, batch, channels,
            size[0], size[1], size[2], outSize[0], outSize[1], outSize[2], mode, padding, alignCorners, threads);
        if (dtype == POSEWARP_FP32)
        {
            posewarp::Attributes const attributes{
                static_cast<posewarp::Mode>(mode), static_cast<posewarp::Padding>(padding), alignCorners == 1};
            sum += posewarp::dispatch(attributes.mode, rank,
                PointByPoint{sizes, attributes, reinterpret_cast<float const*>(features.data()), grid.data()});
        }
        if (failed != POSEWARP_OK)
        {
            std::fprintf(stderr, "call %ld failed with %d\n", call, failed);
            return 1;
        }
        sum += output.empty() ? 0 : output.front();
        double const error = call % 10 == 0 ? convolve() : 0;
        if (!(error < 1e-5)) // of fp32's 6e-8 for a plain sum; the transformations cancel some digits
        {
            std::fprintf(stderr, "convolution of call %ld is off by %g\n", call, error);
            return 1;
        }
    }
    std::printf("%s: %ld calls, sum %g\n", posewarp_cpu_simd(), calls, sum); // the sum keeps the work from being removed
    return 0;
}
