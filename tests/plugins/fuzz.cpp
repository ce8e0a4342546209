// Random calls for a sanitizer to watch: shapes, modes, dtypes, bad coordinates. Each goes through the CPU library,
// and with fp32 features through the core point by point, as a CUDA kernel would.
//   fuzz SEED CALLS          every buffer is its own allocation of exactly its size
//   fuzz SEED CALLS planted  and the features are a pixel short, which a sanitizer must report
#include "../../plugins/core/grid_sample.h"
#include "../../plugins/cpu/posewarp_cpu.h"

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
    }
    std::printf("%s: %ld calls, sum %g\n", posewarp_cpu_simd(), calls, sum); // the sum keeps the work from being removed
    return 0;
}
