// Chooses the instruction set, cuts a convolution into chunks and shares their steps out.
#include "winograd.h"

#include "posewarp_cpu.h"
#include "threads.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace posewarp::cpu
{
namespace
{

constexpr int64_t kPOSITIONS = 36, kSTEP = 4;
// Transformed maps of a chunk, 16 MiB: they should stay in the caches between the steps, but a chunk of few tiles reads
// the weights too often (256 channels at 64x44, two cores: 4.1 ms; with a quarter of it 4.8, with a sixteenth 9.2).
constexpr int64_t kCHUNK_FLOATS = int64_t{4} << 20;
constexpr int64_t kTASKS_PER_THREAD = 4;

WinogradKernels const& chooseKernels()
{
#if defined(__x86_64__)
    char const* const wanted = std::getenv("POSEWARP_CPU_SIMD");
    auto const is = [wanted](char const* name) { return wanted != nullptr && std::strcmp(wanted, name) == 0; };
    if (!is("portable") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    {
        return !is("avx2") && __builtin_cpu_supports("avx512f") ? kWINOGRAD_AVX512 : kWINOGRAD_AVX2;
    }
#endif
    return kWINOGRAD_PORTABLE;
}

WinogradKernels const& kernels()
{
    static WinogradKernels const& sKernels = chooseKernels();
    return sKernels;
}

template <typename Body>
void forEach(ParallelFor const& parallel, int64_t count, Body const& body)
{
    parallel.run(
        parallel.context, static_cast<size_t>(count),
        [](void* data, size_t index) { (*static_cast<Body const*>(data))(static_cast<int64_t>(index)); },
        const_cast<Body*>(&body));
}

int64_t countBlocks(int64_t outChannels)
{
    return (outChannels + kernels().rows - 1) / kernels().rows;
}

} // namespace

size_t countTransformed(int64_t inChannels, int64_t outChannels)
{
    return static_cast<size_t>(kPOSITIONS * inChannels * countBlocks(outChannels) * kernels().rows);
}

void transformWeights(float const* weights, int64_t inChannels, int64_t outChannels, float* transformed)
{
    constexpr double kG[6][3] = {{1.0 / 4, 0, 0}, {-1.0 / 6, -1.0 / 6, -1.0 / 6}, {-1.0 / 6, 1.0 / 6, -1.0 / 6},
        {1.0 / 24, 1.0 / 12, 1.0 / 6}, {1.0 / 24, -1.0 / 12, 1.0 / 6}, {0, 0, 1}};
    int64_t const rows = kernels().rows, matrix = countBlocks(outChannels) * rows * inChannels;
    std::fill_n(transformed, kPOSITIONS * matrix, 0.0F);
    for (int64_t k = 0; k < outChannels; ++k)
    {
        for (int64_t c = 0; c < inChannels; ++c)
        {
            float const* const g = weights + (k * inChannels + c) * 9;
            float* const to = transformed + (k / rows * inChannels + c) * rows + k % rows;
            for (int64_t i = 0; i < kPOSITIONS; ++i)
            {
                double sum = 0; // of G g G^T
                for (int64_t j = 0; j < 9; ++j)
                {
                    sum += kG[i / 6][j / 3] * kG[i % 6][j % 3] * static_cast<double>(g[j]);
                }
                to[i * matrix] = static_cast<float>(sum);
            }
        }
    }
}

int winogradConv(float const* input, float const* transformed, float const* bias, float* output, ConvSizes const& sizes,
    ParallelFor const& parallel) noexcept
{
    WinogradKernels const& use = kernels();
    int64_t const blocks = countBlocks(sizes.outChannels), padded = blocks * use.rows;
    int64_t const columns = (sizes.width + kSTEP - 1) / kSTEP, rows = (sizes.height + kSTEP - 1) / kSTEP;
    int64_t const most = kCHUNK_FLOATS / (kPOSITIONS * (sizes.inChannels + padded) * columns);
    int64_t const share = std::clamp<int64_t>(most, 1, rows);
    int64_t const cuts = (rows + share - 1) / share, step = (rows + cuts - 1) / cuts;

    auto const chunkAt = [&](int64_t first) {
        int64_t const count = std::min(step, rows - first);
        return Chunk{first, count, columns, (count * columns + use.lanes - 1) / use.lanes * use.lanes};
    };
    Chunk const largest = chunkAt(0);
    // In one piece: the largest buffer is kept for the next call (threads.h).
    int64_t const mapFloats = kPOSITIONS * largest.stride(sizes.inChannels);
    int64_t const sumFloats = kPOSITIONS * largest.stride(padded);
    int64_t const eachFloats = largest.scratch(use.lanes);
    int64_t const tasks = kTASKS_PER_THREAD * parallel.threads;
    Scratch const memory = takeScratch(sizeof(float) * static_cast<size_t>(mapFloats + sumFloats + eachFloats * tasks));
    if (memory == nullptr)
    {
        return POSEWARP_NO_MEMORY;
    }
    float* const maps = static_cast<float*>(memory.get());
    float* const sums = maps + mapFloats;
    // body(channel, scratch) for all channels, in tasks that have a scratch of their own.
    auto const forEachChannel = [&](int64_t channels, auto const& body) {
        forEach(parallel, tasks, [&](int64_t task) {
            for (int64_t i = channels * task / tasks; i < channels * (task + 1) / tasks; ++i)
            {
                body(i, sums + sumFloats + task * eachFloats);
            }
        });
    };
    int64_t const pixels = sizes.height * sizes.width;
    int64_t const parts = std::clamp<int64_t>(kTASKS_PER_THREAD * parallel.threads / kPOSITIONS + 1, 1, blocks);
    for (int64_t image = 0; image < sizes.batch; ++image)
    {
        for (int64_t first = 0; first < rows; first += step)
        {
            Chunk const chunk = chunkAt(first);
            forEachChannel(sizes.inChannels, [&](int64_t c, float* scratch) {
                use.transformInput(
                    input + (image * sizes.inChannels + c) * pixels, sizes, chunk, c, scratch, maps);
            });
            forEach(parallel, kPOSITIONS * parts, [&](int64_t i) {
                int64_t const position = i / parts, part = i % parts;
                use.multiply(transformed + position * padded * sizes.inChannels,
                    maps + position * chunk.stride(sizes.inChannels), sums + position * chunk.stride(padded),
                    sizes.inChannels, chunk.tiles, blocks * part / parts, blocks * (part + 1) / parts);
            });
            forEachChannel(sizes.outChannels, [&](int64_t k, float* scratch) {
                use.transformOutput(sums, sizes, chunk, k, bias == nullptr ? 0.0F : bias[k], scratch,
                    output + (image * sizes.outChannels + k) * pixels);
            });
        }
    }
    return POSEWARP_OK;
}

} // namespace posewarp::cpu
