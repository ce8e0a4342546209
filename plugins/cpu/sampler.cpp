// Chooses instruction set and plan, and shares the work out: first where each point samples, then blocks of channels.
#include "sampler.h"

#include "kernels.h"
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

Kernels const& chooseKernels()
{
    char const* const most = std::getenv("POSEWARP_CPU_SIMD");
    auto const allowed = [most](Kernels const& kernels) { return most == nullptr || std::strcmp(most, kernels.name) == 0; };
#if defined(__x86_64__)
    if (allowed(kAVX2) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
        && __builtin_cpu_supports("f16c"))
    {
        return kAVX2;
    }
#endif
    static_cast<void>(allowed);
    return kPORTABLE;
}

Kernels const& kernels()
{
    static Kernels const& sKernels = chooseKernels();
    return sKernels;
}

// Calls body(i) for each i below count.
template <typename Body>
void forEach(ParallelFor const& parallel, int64_t count, Body const& body)
{
    parallel.run(
        parallel.context, static_cast<size_t>(count),
        [](void* data, size_t index) { (*static_cast<Body const*>(data))(static_cast<int64_t>(index)); },
        const_cast<Body*>(&body));
}

// [0, total) cut into chunks of at most `length`, a multiple of kLANES so that only the last has a ragged end.
struct Chunks
{
    int64_t mTotal, mLength;

    Chunks(int64_t total, int64_t wanted, int64_t shortest)
        : mTotal(total)
        , mLength((std::max((total + wanted - 1) / wanted, shortest) + kLANES - 1) / kLANES * kLANES)
    {
    }

    int64_t count() const
    {
        return (mTotal + mLength - 1) / mLength;
    }

    int64_t first(int64_t chunk) const
    {
        return chunk * mLength;
    }

    int64_t last(int64_t chunk) const
    {
        return std::min(mTotal, (chunk + 1) * mLength);
    }
};

struct TapBytes
{
    template <Mode kMODE, int kRANK>
    size_t run() const
    {
        return sizeof(Taps<kMODE, kRANK, int32_t>);
    }
};

// A chunk should be worth more than handing it to a thread: some 10 us.
constexpr int64_t kSHORTEST_CHUNK = 1024;
constexpr int64_t kCHUNKS_PER_THREAD = 4;
constexpr size_t kMOST_TAP_BYTES = size_t{8} << 20;
constexpr size_t kMOST_PACKED_BYTES = size_t{256} << 20;

size_t packedBytes(Sizes const& sizes)
{
    return static_cast<size_t>(1 + sizes.pixels()) * kLANES * sizeof(float);
}

// Packing costs about a third of sampling a point for each pixel, and a packed point costs the same for one channel as
// for eight.
bool worthPacking(Sizes const& sizes)
{
    int64_t const channels = std::min(sizes.channels, kLANES);
    return sizes.pixels() < static_cast<int64_t>(kMOST_PACKED_BYTES / (kLANES * sizeof(float)))
        && 3 * (channels - 1) * sizes.outPixels() > sizes.pixels();
}

int sampleUnpacked(Problem const& problem, ParallelFor const& parallel)
{
    Sizes const& sizes = problem.sizes;
    Chunks const points(sizes.outPixels(), parallel.threads * kCHUNKS_PER_THREAD,
        std::max<int64_t>(1, kSHORTEST_CHUNK / sizes.channels));
    forEach(parallel, sizes.batch * points.count(), [&](int64_t task) {
        int64_t const chunk = task % points.count();
        kernels().sampleUnpacked(problem, task / points.count(), points.first(chunk), points.last(chunk));
    });
    return POSEWARP_OK;
}

// The images of the batch in groups whose taps fit kMOST_TAP_BYTES: taps of the group, then its blocks of channels.
int samplePacked(Problem const& problem, ParallelFor const& parallel)
{
    Sizes const& sizes = problem.sizes;
    int64_t const blocks = (sizes.channels + kLANES - 1) / kLANES;
    int64_t const chunksWanted = parallel.threads * kCHUNKS_PER_THREAD;
    Chunks const points(sizes.outPixels(), chunksWanted, kSHORTEST_CHUNK);
    Chunks const pixels(sizes.pixels(), chunksWanted, kSHORTEST_CHUNK);
    size_t const imageTaps
        = static_cast<size_t>(sizes.outPixels()) * dispatch(problem.attributes.mode, sizes.spatialRank, TapBytes{});
    int64_t const group = std::clamp<int64_t>(static_cast<int64_t>(kMOST_TAP_BYTES / imageTaps), 1, sizes.batch);
    Scratch const taps = takeScratch(static_cast<size_t>(group) * imageTaps);
    if (taps == nullptr)
    {
        return POSEWARP_NO_MEMORY;
    }
    for (int64_t firstImage = 0; firstImage < sizes.batch; firstImage += group)
    {
        int64_t const images = std::min(group, sizes.batch - firstImage);
        auto const tapsOf = [&](int64_t image) { return static_cast<char*>(taps.get()) + static_cast<size_t>(image) * imageTaps; };
        forEach(parallel, images * points.count(), [&](int64_t task) {
            int64_t const image = task / points.count(), chunk = task % points.count();
            kernels().locate(problem, firstImage + image, points.first(chunk), points.last(chunk), tapsOf(image));
        });
        if (images * blocks >= 2 * parallel.threads)
        {
            // A block a task, packed where it is sampled: it stays in that CPU's cache.
            std::atomic<bool> noMemory{false};
            forEach(parallel, images * blocks, [&](int64_t task) {
                int64_t const image = task / blocks, block = task % blocks;
                Scratch const packed = takeScratch(packedBytes(sizes));
                if (packed == nullptr)
                {
                    noMemory = true;
                    return;
                }
                float* const floats = static_cast<float*>(packed.get());
                kernels().pack(problem, firstImage + image, block, 0, sizes.pixels(), floats);
                kernels().sample(
                    problem, firstImage + image, block, 0, sizes.outPixels(), tapsOf(image), floats);
            });
            if (noMemory)
            {
                return POSEWARP_NO_MEMORY;
            }
            continue;
        }
        // Fewer blocks than keep the threads busy: all are packed by all, then sampled by all.
        Scratch const packed = takeScratch(static_cast<size_t>(images * blocks) * packedBytes(sizes));
        if (packed == nullptr)
        {
            return POSEWARP_NO_MEMORY;
        }
        auto const floatsOf = [&](int64_t task) {
            return reinterpret_cast<float*>(static_cast<char*>(packed.get()) + static_cast<size_t>(task) * packedBytes(sizes));
        };
        forEach(parallel, images * blocks * pixels.count(), [&](int64_t task) {
            int64_t const chunk = task % pixels.count(), block = task / pixels.count();
            kernels().pack(problem, firstImage + block / blocks, block % blocks, pixels.first(chunk), pixels.last(chunk),
                floatsOf(block));
        });
        forEach(parallel, images * blocks * points.count(), [&](int64_t task) {
            int64_t const chunk = task % points.count(), block = task / points.count();
            kernels().sample(problem, firstImage + block / blocks, block % blocks, points.first(chunk),
                points.last(chunk), tapsOf(block / blocks), floatsOf(block));
        });
    }
    return POSEWARP_OK;
}

} // namespace

int gridSample(Problem const& problem, ParallelFor const& parallel) noexcept
{
    if (problem.dtype != Dtype::kFP32 && problem.dtype != Dtype::kFP16 && problem.dtype != Dtype::kBF16)
    {
        return POSEWARP_UNKNOWN_DTYPE;
    }
    if (findProblem(problem.sizes, problem.attributes) != nullptr)
    {
        return POSEWARP_BAD_ARGUMENT;
    }
    if (problem.sizes.outElements() == 0)
    {
        return POSEWARP_OK;
    }
    if (problem.features == nullptr || problem.grid == nullptr || problem.output == nullptr)
    {
        return POSEWARP_NULL_POINTER;
    }
    return worthPacking(problem.sizes) ? samplePacked(problem, parallel) : sampleUnpacked(problem, parallel);
}

} // namespace posewarp::cpu

char const* posewarp_cpu_version(void)
{
    return POSEWARP_VERSION;
}

char const* posewarp_cpu_simd(void)
{
    return posewarp::cpu::kernels().name;
}

int posewarp_grid_sample(void const* features, int dtype, float const* grid, void* output, int spatial_rank,
    int64_t batch, int64_t channels, int64_t depth, int64_t height, int64_t width, int64_t out_depth,
    int64_t out_height, int64_t out_width, int mode, int padding, int align_corners, int threads)
{
    using namespace posewarp;
    return cpu::gridSample({features, static_cast<cpu::Dtype>(dtype), grid, output,
                               {spatial_rank, batch, channels, depth, height, width, out_depth, out_height, out_width},
                               {static_cast<Mode>(mode), static_cast<Padding>(padding), align_corners != 0}},
        cpu::ownThreads(threads));
}
