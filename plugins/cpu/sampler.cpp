// Chooses the instruction set, plans a call and shares its work out.
#include "sampler.h"

#include "kernels.h"
#include "posewarp_cpu.h"
#include "threads.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

namespace posewarp::cpu
{
namespace
{

Kernels const& chooseKernels()
{
#if defined(__x86_64__)
    char const* const wanted = std::getenv("POSEWARP_CPU_SIMD");
    bool const portable = wanted != nullptr && std::strcmp(wanted, kPORTABLE.name) == 0;
    if (!portable && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
    {
        return kAVX2;
    }
#endif
    return kPORTABLE;
}

Kernels const& kernels()
{
    static Kernels const& sKernels = chooseKernels();
    return sKernels;
}

struct TapBytes
{
    template <Mode kMODE, int kRANK>
    size_t run() const
    {
        return sizeof(Taps<kMODE, kRANK, int32_t>);
    }
};

// A stripe's taps and its packed band are used while they are in a core's second cache, some hundreds of KiB. With
// more rows in a stripe, fewer rows are packed for two stripes.
constexpr int64_t kSHORTEST_STRIPE = 256, kSTRIPE_ROWS = 24, kSTRIPE = 4096, kLONGEST_STRIPE = 16384;
constexpr int64_t kTASKS_PER_THREAD = 4;
// A band may be so many times as long as its stripe, then packing it costs what sampling costs.
constexpr int64_t kLONGEST_BAND = 4;
constexpr size_t kMOST_TAP_BYTES = size_t{16} << 20;
constexpr int64_t kMOST_PACKED_PIXELS = int64_t{1} << 23; // 256 MiB

// Packing a pixel costs a third of sampling a point, and either costs the same for one channel as for eight.
bool worthPacking(int64_t points, int64_t pixels, int64_t channels)
{
    return pixels <= kMOST_PACKED_PIXELS && 3 * (std::min(channels, kLANES) - 1) * points > pixels;
}

size_t packedBytes(Range band)
{
    return static_cast<size_t>(1 + band.count()) * kLANES * sizeof(float);
}

enum class Plan
{
    kBAND,     // the stripe's taps lie close together: pack where they lie, sample
    kWHOLE,    // they do not, as those of other stripes of the image: pack the image once for all of them
    kUNPACKED, // so few that it is not worth it
};

// One call: cuts the points of each image into stripes, finds where each samples, then takes stripe by stripe, and of
// each block by block of channels, so that what is read again is still near.
class Sampler
{
public:
    Sampler(Problem const& problem, ParallelFor const& parallel)
        : mProblem(problem)
        , mParallel(parallel)
        , mPixels{0, problem.sizes.pixels()}
        , mBlocks((problem.sizes.channels + kLANES - 1) / kLANES)
    {
        Sizes const& sizes = problem.sizes;
        int64_t const most = std::clamp(kSTRIPE_ROWS * sizes.outWidth, kSTRIPE, kLONGEST_STRIPE);
        int64_t const wanted = kTASKS_PER_THREAD * parallel.threads / (sizes.batch * mBlocks) + 1;
        int64_t const share = (sizes.outPixels() / wanted + kLANES - 1) / kLANES * kLANES;
        mStripeLength = std::clamp(share, kSHORTEST_STRIPE, most);
        mStripesAnImage = (sizes.outPixels() + mStripeLength - 1) / mStripeLength;
    }

    int run()
    {
        int64_t const stripes = mProblem.sizes.batch * mStripesAnImage;
        // Taps count pixels in 32 bits.
        if (mProblem.sizes.channels == 1 || mPixels.count() > INT32_MAX)
        {
            forEach(mParallel, stripes, [&](int64_t i) {
                kernels().sampleUnpacked(mProblem, i / mStripesAnImage, pointsOf(i % mStripesAnImage));
            });
            return POSEWARP_OK;
        }
        size_t const tapBytes = static_cast<size_t>(mStripeLength)
            * dispatch(mProblem.attributes.mode, mProblem.sizes.spatialRank, TapBytes{});
        int64_t const group = std::clamp<int64_t>(static_cast<int64_t>(kMOST_TAP_BYTES / tapBytes), 1, stripes);
        Scratch const taps = takeScratch(static_cast<size_t>(group) * tapBytes);
        if (taps == nullptr)
        {
            return POSEWARP_NO_MEMORY;
        }
        std::atomic<bool> noMemory{false};
        for (int64_t first = 0; first < stripes; first += group)
        {
            mStripes.resize(static_cast<size_t>(std::min(group, stripes - first)));
            forEach(mParallel, static_cast<int64_t>(mStripes.size()), [&](int64_t i) {
                char* const memory = static_cast<char*>(taps.get()) + static_cast<size_t>(i) * tapBytes;
                mStripes[static_cast<size_t>(i)] = locate((first + i) / mStripesAnImage, (first + i) % mStripesAnImage, memory);
            });
            std::vector<Task> const tasks = plan();
            forEach(mParallel, static_cast<int64_t>(tasks.size()), [&](int64_t i) {
                if (!perform(tasks[static_cast<size_t>(i)]))
                {
                    noMemory = true;
                }
            });
        }
        return noMemory ? POSEWARP_NO_MEMORY : POSEWARP_OK;
    }

private:
    struct Stripe
    {
        int64_t mImage;
        Range mPoints;
        Range mBand; // all pixels for any plan but kBAND
        void const* mTaps;
        Plan mPlan;
    };

    struct Task
    {
        Plan mPlan;
        size_t mStripe; // for kWHOLE the image's first
        int64_t mBlock;
    };

    Range pointsOf(int64_t stripe) const
    {
        return {stripe * mStripeLength, std::min(mProblem.sizes.outPixels(), (stripe + 1) * mStripeLength)};
    }

    Stripe locate(int64_t image, int64_t stripe, void* taps) const
    {
        Range const points = pointsOf(stripe);
        int64_t const longest = kLONGEST_BAND * points.count();
        Range const band = kernels().locate(mProblem, image, points, longest, taps);
        return {image, points, band, taps, band.count() <= longest ? Plan::kBAND : Plan::kWHOLE};
    }

    // The tasks for the stripes at hand; decides between kWHOLE and kUNPACKED.
    std::vector<Task> plan()
    {
        std::vector<Task> tasks;
        size_t const count = mStripes.size();
        for (size_t begin = 0, end = 0; begin < count; begin = end)
        {
            int64_t spread = 0; // points of this image in stripes without a band
            for (end = begin; end < count && mStripes[end].mImage == mStripes[begin].mImage; ++end)
            {
                spread += mStripes[end].mPlan == Plan::kWHOLE ? mStripes[end].mPoints.count() : 0;
            }
            bool const whole = worthPacking(spread, mPixels.count(), mProblem.sizes.channels);
            for (int64_t block = 0; block < mBlocks && spread > 0 && whole; ++block)
            {
                tasks.push_back({Plan::kWHOLE, begin, block});
            }
            for (size_t i = begin; i < end; ++i)
            {
                if (mStripes[i].mPlan == Plan::kBAND)
                {
                    for (int64_t block = 0; block < mBlocks; ++block)
                    {
                        tasks.push_back({Plan::kBAND, i, block});
                    }
                }
                else if (!whole)
                {
                    mStripes[i].mPlan = Plan::kUNPACKED;
                    tasks.push_back({Plan::kUNPACKED, i, 0});
                }
            }
        }
        return tasks;
    }

    // False when there is no memory.
    bool perform(Task const& task) const
    {
        Stripe const& stripe = mStripes[task.mStripe];
        if (task.mPlan == Plan::kUNPACKED)
        {
            kernels().sampleUnpacked(mProblem, stripe.mImage, stripe.mPoints);
            return true;
        }
        Range const band = task.mPlan == Plan::kBAND ? stripe.mBand : mPixels;
        Scratch const scratch = takeScratch(packedBytes(band));
        if (scratch == nullptr)
        {
            return false;
        }
        float* const packed = static_cast<float*>(scratch.get());
        kernels().pack(mProblem, stripe.mImage, task.mBlock, band, packed);
        if (task.mPlan == Plan::kBAND)
        {
            kernels().sample(mProblem, stripe.mImage, task.mBlock, stripe.mPoints, stripe.mTaps, packed);
            return true;
        }
        for (size_t i = task.mStripe; i < mStripes.size() && mStripes[i].mImage == stripe.mImage; ++i)
        {
            if (mStripes[i].mPlan == Plan::kWHOLE)
            {
                kernels().sample(mProblem, stripe.mImage, task.mBlock, mStripes[i].mPoints, mStripes[i].mTaps, packed);
            }
        }
        return true;
    }

    Problem const& mProblem;
    ParallelFor const& mParallel;
    Range const mPixels;
    int64_t const mBlocks;
    int64_t mStripeLength, mStripesAnImage;
    std::vector<Stripe> mStripes;
};

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
    try
    {
        return Sampler(problem, parallel).run();
    }
    catch (std::bad_alloc const&)
    {
        return POSEWARP_NO_MEMORY;
    }
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
