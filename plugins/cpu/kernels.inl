// The inner loops, for the instruction set that the including file is compiled for; it says POSEWARP_KERNELS, the name
// of the table, and POSEWARP_SIMD, the name of the instruction set.
//
// Everything here is internal to its file or always inlined and nothing of the standard library is instantiated: the
// linker would merge such functions of several instruction sets into one.

#include "lanes.inl"

namespace posewarp::cpu
{
namespace
{

// The rows of a block's channels. Lanes beyond the last channel repeat it: they cost nothing that way, no branch, and
// what they write is what it writes.
template <typename T>
struct Rows
{
    T* mRow[kLANES];

    Rows(T* tensor, Problem const& problem, int64_t image, int64_t block, int64_t length)
    {
        int64_t const channels = problem.sizes.channels;
        for (int64_t lane = 0; lane < kLANES; ++lane)
        {
            int64_t const channel = block * kLANES + lane;
            mRow[lane] = tensor + (image * channels + (channel < channels ? channel : channels - 1)) * length;
        }
    }
};

template <typename T>
void packRows(Problem const& problem, int64_t image, int64_t block, Range band, float* packed)
{
    Rows<T const> const rows(static_cast<T const*>(problem.features), problem, image, block, problem.sizes.pixels());
    store(packed, Lanes(0.0F));
    float* out = packed + kLANES;
    Lanes lanes[kLANES];
    int64_t pixel = band.first;
    for (; pixel + kLANES <= band.last; pixel += kLANES)
    {
        for (int i = 0; i < kLANES; ++i)
        {
            lanes[i] = load(rows.mRow[i] + pixel);
        }
        transpose(lanes);
        for (int i = 0; i < kLANES; ++i, out += kLANES)
        {
            store(out, lanes[i]);
        }
    }
    for (; pixel < band.last; ++pixel, out += kLANES)
    {
        for (int i = 0; i < kLANES; ++i)
        {
            out[i] = toFloat(rows.mRow[i][pixel]);
        }
    }
}

// The channels of a pixel of a packed band; of pixel -1 they are zeros.
struct PackedPixels
{
    float const* mPixels;

    POSEWARP_INLINE Lanes operator()(int32_t pixel) const
    {
        return load(mPixels + int64_t{pixel} * kLANES);
    }
};

template <typename T, Mode kMODE, int kRANK>
void sampleRows(Problem const& problem, int64_t image, int64_t block, Range points, void const* taps, float const* packed)
{
    Rows<T> const rows(static_cast<T*>(problem.output), problem, image, block, problem.sizes.outPixels());
    auto const* tap = static_cast<Taps<kMODE, kRANK, int32_t> const*>(taps);
    PackedPixels const pixels{packed + kLANES};
    Lanes lanes[kLANES];
    int64_t point = points.first;
    for (; point + kLANES <= points.last; point += kLANES)
    {
        for (int i = 0; i < kLANES; ++i, ++tap)
        {
            lanes[i] = sum(*tap, pixels);
        }
        transpose(lanes);
        for (int i = 0; i < kLANES; ++i)
        {
            store(rows.mRow[i] + point, lanes[i]);
        }
    }
    for (; point < points.last; ++point, ++tap)
    {
        lanes[0] = sum(*tap, pixels);
        for (int i = 0; i < kLANES; ++i)
        {
            rows.mRow[i][point] = fromFloat<T>(lanes[0].mVector[i]);
        }
    }
}

// The pixels that taps lie in, over several points. -1 is the largest unsigned number: no first pixel.
struct Extent
{
    typedef uint32_t Naturals __attribute__((vector_size(4 * kLANES)));
    Naturals mFirst = Naturals{} + INT32_MAX;
    Integers mLast = Integers{};

    POSEWARP_INLINE void include(Integers pixel)
    {
        mFirst = (Naturals) pixel < mFirst ? (Naturals) pixel : mFirst;
        mLast = pixel > mLast ? pixel : mLast;
    }
};

// The taps of at most kLANES points.
template <Mode kMODE, int kRANK>
POSEWARP_INLINE void locateSome(Sizes const& sizes, Attributes const& attributes, float const* grid, int64_t count,
    Taps<kMODE, kRANK, int32_t>* taps, Extent& extent)
{
    Lanes point[kRANK];
    for (int axis = 0; axis < kRANK; ++axis)
    {
        // Beyond the last point the last is taken again.
        point[axis] = inEachLane([&](int i) { return grid[(i < count ? i : count - 1) * kRANK + axis]; });
    }
    auto const located = posewarp::locate<kMODE, kRANK, Indices>(point, sizes, attributes);
    constexpr int kPIXELS = decltype(located)::kPIXELS, kWORDS = kPIXELS + decltype(located)::kWEIGHTS;
    static_assert(sizeof(*taps) == kWORDS * sizeof(float), "pixels, then weights, nothing between");
    for (Indices const& pixel : located.pixel)
    {
        extent.include(pixel.mVector);
    }
    for (int first = 0; first < kWORDS; first += kLANES)
    {
        Lanes words[kLANES] = {};
        for (int i = 0; i < kLANES && first + i < kWORDS; ++i)
        {
            int const word = first + i;
            words[i] = word < kPIXELS ? Lanes((Floats) located.pixel[word].mVector) : located.weight[word - kPIXELS];
        }
        transpose(words);
        constexpr size_t kBYTES = sizeof(float) * (kWORDS < kLANES ? kWORDS : kLANES);
        for (int64_t i = 0; i < count; ++i)
        {
            std::memcpy(reinterpret_cast<char*>(taps + i) + static_cast<size_t>(first) * sizeof(float), &words[i], kBYTES);
        }
    }
}

template <Mode kMODE, int kRANK>
Range locateStripe(Problem const& problem, int64_t image, Range points, int64_t longest, void* taps)
{
    auto* const tap = static_cast<Taps<kMODE, kRANK, int32_t>*>(taps);
    float const* const grid = problem.grid + (image * problem.sizes.outPixels() + points.first) * kRANK;
    // Copies: they stay in registers whatever is written.
    Sizes const sizes = problem.sizes;
    Attributes const attributes = problem.attributes;
    Extent extent;
    int64_t point = 0;
    for (; point + kLANES <= points.count(); point += kLANES)
    {
        locateSome<kMODE, kRANK>(sizes, attributes, grid + point * kRANK, kLANES, tap + point, extent);
    }
    if (point < points.count())
    {
        locateSome<kMODE, kRANK>(sizes, attributes, grid + point * kRANK, points.count() - point, tap + point, extent);
    }
    int32_t first = INT32_MAX, last = 0;
    for (int i = 0; i < kLANES; ++i)
    {
        first = static_cast<int32_t>(extent.mFirst[i]) < first ? static_cast<int32_t>(extent.mFirst[i]) : first;
        last = extent.mLast[i] > last ? extent.mLast[i] : last;
    }
    first = first < last ? first : last; // all taps may lie outside
    if (last - first >= longest)
    {
        return {0, problem.sizes.pixels()};
    }
    for (point = 0; point < points.count() && first > 0; ++point)
    {
        for (int32_t& pixel : tap[point].pixel)
        {
            pixel = pixel < 0 ? -1 : pixel - first;
        }
    }
    return {first, last + 1};
}

// A pixel of one channel.
template <typename T>
struct PlanePixels
{
    T const* mPixels;

    POSEWARP_INLINE float operator()(int64_t pixel) const
    {
        return pixel < 0 ? 0.0F : toFloat(mPixels[pixel]);
    }
};

template <typename T, Mode kMODE, int kRANK, typename Tap>
POSEWARP_INLINE void samplePlanes(Problem const& problem, int64_t image, int64_t point, int64_t count, Tap const* taps)
{
    int64_t const pixels = problem.sizes.pixels(), points = problem.sizes.outPixels();
    for (int64_t plane = image * problem.sizes.channels; plane < (image + 1) * problem.sizes.channels; ++plane)
    {
        PlanePixels<T> const from{static_cast<T const*>(problem.features) + plane * pixels};
        T* const to = static_cast<T*>(problem.output) + plane * points + point;
        for (int64_t i = 0; i < count; ++i)
        {
            to[i] = fromFloat<T>(sum(taps[i], from));
        }
    }
}

template <typename T, Mode kMODE, int kRANK>
void sampleUnpackedStripe(Problem const& problem, int64_t image, Range points)
{
    float const* const grid = problem.grid + image * problem.sizes.outPixels() * kRANK;
    if (problem.sizes.pixels() > INT32_MAX)
    {
        for (int64_t point = points.first; point < points.last; ++point)
        {
            auto const tap = posewarp::locate<kMODE, kRANK>(grid + point * kRANK, problem.sizes, problem.attributes);
            samplePlanes<T, kMODE, kRANK>(problem, image, point, 1, &tap);
        }
        return;
    }
    Sizes const sizes = problem.sizes;
    Attributes const attributes = problem.attributes;
    for (int64_t point = points.first; point < points.last; point += kLANES)
    {
        int64_t const count = points.last - point < kLANES ? points.last - point : kLANES;
        Taps<kMODE, kRANK, int32_t> taps[kLANES];
        Extent extent;
        locateSome<kMODE, kRANK>(sizes, attributes, grid + point * kRANK, count, taps, extent);
        samplePlanes<T, kMODE, kRANK>(problem, image, point, count, taps);
    }
}

// From here on types and modes are values: what the table holds.

template <typename Body>
void withType(Dtype dtype, Body const& body)
{
    switch (dtype)
    {
    case Dtype::kFP32: return body(float{});
    case Dtype::kFP16: return body(Fp16{});
    case Dtype::kBF16: return body(Bf16{});
    }
}

struct Locate
{
    Problem const& mProblem;
    int64_t mImage;
    Range mPoints;
    int64_t mLongest;
    void* mTaps;

    template <Mode kMODE, int kRANK>
    Range run() const
    {
        return locateStripe<kMODE, kRANK>(mProblem, mImage, mPoints, mLongest, mTaps);
    }
};

template <typename T>
struct Sample
{
    Problem const& mProblem;
    int64_t mImage, mBlock;
    Range mPoints;
    void const* mTaps;
    float const* mPacked;

    template <Mode kMODE, int kRANK>
    void run() const
    {
        sampleRows<T, kMODE, kRANK>(mProblem, mImage, mBlock, mPoints, mTaps, mPacked);
    }
};

template <typename T>
struct SampleUnpacked
{
    Problem const& mProblem;
    int64_t mImage;
    Range mPoints;

    template <Mode kMODE, int kRANK>
    void run() const
    {
        sampleUnpackedStripe<T, kMODE, kRANK>(mProblem, mImage, mPoints);
    }
};

Range locate(Problem const& problem, int64_t image, Range points, int64_t longest, void* taps)
{
    return dispatch(
        problem.attributes.mode, problem.sizes.spatialRank, Locate{problem, image, points, longest, taps});
}

void pack(Problem const& problem, int64_t image, int64_t block, Range band, float* packed)
{
    withType(problem.dtype, [&](auto type) { packRows<decltype(type)>(problem, image, block, band, packed); });
}

void sample(Problem const& problem, int64_t image, int64_t block, Range points, void const* taps, float const* packed)
{
    withType(problem.dtype, [&](auto type) {
        dispatch(problem.attributes.mode, problem.sizes.spatialRank,
            Sample<decltype(type)>{problem, image, block, points, taps, packed});
    });
}

void sampleUnpacked(Problem const& problem, int64_t image, Range points)
{
    withType(problem.dtype, [&](auto type) {
        dispatch(problem.attributes.mode, problem.sizes.spatialRank, SampleUnpacked<decltype(type)>{problem, image, points});
    });
}

} // namespace

Kernels const POSEWARP_KERNELS = {POSEWARP_SIMD, locate, pack, sample, sampleUnpacked};

} // namespace posewarp::cpu
