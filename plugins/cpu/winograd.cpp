// Chooses the instruction set, cuts a convolution into chunks and shares their steps out.
#include "winograd.h"

#include "posewarp_cpu.h"
#include "threads.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>

namespace posewarp::cpu
{
namespace
{

constexpr int64_t kPOSITIONS = 36, kSTEP = 4;
constexpr int64_t kTASKS_PER_THREAD = 4;

// Floats of transformed maps that a chunk may have. One thread's own chunk should stay in a core's second cache beside
// the weights; a chunk that all threads share in the third: of fewer tiles the weights would be read too often (256
// channels at 64x44, two cores: 4.1 ms; with a quarter of it 4.8, with a sixteenth 9.2).
constexpr int64_t kOWN_FLOATS = int64_t{256} << 10, kSHARED_FLOATS = int64_t{4} << 20;
// Of transformed weights, for chunks of one thread each.
constexpr int64_t kOWN_WEIGHTS = int64_t{320} << 10;

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

namespace
{

// All indices on the caller's thread.
constexpr ParallelFor kALONE{[](void*, size_t count, ParallelFor::Body body, void* data) {
                                 for (size_t i = 0; i < count; ++i)
                                 {
                                     body(data, i);
                                 }
                             },
    nullptr, 1};

struct Convolution
{
    float const* mInput;
    float const* mTransformed;
    Ending mEnding;
    float* mOutput;
    ConvSizes mSizes;
    int64_t mBlocks{countBlocks(mSizes.outChannels)};
    int64_t mPadded{mBlocks * kernels().rows}; // output channels
    int64_t mRows{(mSizes.height + kSTEP - 1) / kSTEP}, mColumns{(mSizes.width + kSTEP - 1) / kSTEP}; // of tiles

    // Rows of tiles in a chunk of so many floats at most, all chunks about as large.
    int64_t rowsIn(int64_t floats) const
    {
        int64_t const most = floats / (kPOSITIONS * (mSizes.inChannels + mPadded) * mColumns);
        int64_t const chunks = (mRows + std::max<int64_t>(most, 1) - 1) / std::max<int64_t>(most, 1);
        return (mRows + chunks - 1) / chunks;
    }

    // The chunk from a row of tiles on, in all three steps; false when there is no memory.
    bool run(int64_t image, int64_t firstRow, int64_t rows, ParallelFor const& parallel) const
    {
        WinogradKernels const& use = kernels();
        int64_t const count = std::min(rows, mRows - firstRow), vectors = (count * mColumns + use.lanes - 1) / use.lanes;
        Chunk const chunk{firstRow, count, mColumns, vectors * use.lanes};
        int64_t const inputs = mSizes.inChannels, outputs = mSizes.outChannels, pixels = mSizes.height * mSizes.width;
        int64_t const mapFloats = kPOSITIONS * chunk.stride(inputs), sumFloats = kPOSITIONS * chunk.stride(mPadded);
        int64_t const tasks = parallel.threads == 1 ? 1 : kTASKS_PER_THREAD * parallel.threads;
        int64_t const eachFloats = chunk.scratch(use.lanes);
        // In one piece: the largest buffer is kept for the next call (threads.h).
        Scratch const memory
            = takeScratch(sizeof(float) * static_cast<size_t>(mapFloats + sumFloats + eachFloats * tasks));
        if (memory == nullptr)
        {
            return false;
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
        forEachChannel(inputs, [&](int64_t c, float* scratch) {
            use.transformInput(mInput + (image * inputs + c) * pixels, mSizes, chunk, c, scratch, maps);
        });
        int64_t const parts = std::min(mBlocks, tasks / kPOSITIONS + 1);
        forEach(parallel, kPOSITIONS * parts, [&](int64_t i) {
            int64_t const position = i / parts, part = i % parts;
            use.multiply(mTransformed + position * mPadded * inputs, maps + position * chunk.stride(inputs),
                sums + position * chunk.stride(mPadded), inputs, chunk.tiles, mBlocks * part / parts,
                mBlocks * (part + 1) / parts);
        });
        forEachChannel(outputs, [&](int64_t k, float* scratch) {
            use.transformOutput(sums, mSizes, chunk, k, mEnding, scratch,
                mOutput + (image * outputs + k) * pixels);
        });
        return true;
    }
};

} // namespace

int winogradConv(float const* input, float const* transformed, Ending const& ending, float* output,
    ConvSizes const& sizes, ParallelFor const& parallel) noexcept
{
    if (sizes.batch * sizes.outChannels * sizes.height * sizes.width == 0)
    {
        return POSEWARP_OK;
    }
    Convolution const convolution{input, transformed, ending, output, sizes};
    // Where weights and a chunk fit, each thread takes chunks of its own; else all share each chunk's steps.
    int64_t rows = convolution.rowsIn(kOWN_FLOATS);
    auto const countChunks = [&] { return (convolution.mRows + rows - 1) / rows; };
    bool const own = kPOSITIONS * sizes.inChannels * convolution.mPadded <= kOWN_WEIGHTS
        && sizes.batch * countChunks() >= 2 * parallel.threads;
    rows = own ? rows : convolution.rowsIn(kSHARED_FLOATS);
    int64_t const chunks = countChunks(), tasks = sizes.batch * chunks;
    std::atomic<bool> noMemory{false};
    auto const run = [&](int64_t task, ParallelFor const& threads) {
        if (!convolution.run(task / chunks, task % chunks * rows, rows, threads))
        {
            noMemory = true;
        }
    };
    if (own)
    {
        forEach(parallel, tasks, [&](int64_t task) { run(task, kALONE); });
    }
    else
    {
        for (int64_t task = 0; task < tasks; ++task)
        {
            run(task, parallel);
        }
    }
    return noMemory ? POSEWARP_NO_MEMORY : POSEWARP_OK;
}

} // namespace posewarp::cpu
