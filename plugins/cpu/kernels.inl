// The inner loops, for the instruction set that the including file is compiled for; it says POSEWARP_KERNELS, the name
// of the table, and POSEWARP_SIMD, the name of the instruction set.
//
// Everything here is internal to its file or always inlined and nothing of the standard library is instantiated: the
// linker would merge such functions of several instruction sets into one. Vectors are the compilers' own (GCC,
// Clang), so the same lines become AVX2, SSE2 or NEON.

#include "half.h"
#include "kernels.h"

namespace posewarp::cpu
{
namespace
{

typedef float Floats __attribute__((vector_size(4 * kLANES)));
typedef int32_t Integers __attribute__((vector_size(4 * kLANES)));

// Channels of one pixel, pixels of one channel, or a value of several points.
struct Lanes
{
    Floats mVector;

    Lanes() = default;

    POSEWARP_INLINE Lanes(Floats vector)
        : mVector(vector)
    {
    }

    POSEWARP_INLINE explicit Lanes(float value)
        : mVector(value - Floats{})
    {
    }
};

POSEWARP_INLINE Lanes operator*(Lanes a, float b)
{
    return a.mVector * b;
}

POSEWARP_INLINE Lanes operator+(Lanes a, Lanes b)
{
    return a.mVector + b.mVector;
}

#if defined(__FMA__)
POSEWARP_INLINE Lanes multiplyAdd(Lanes value, float weight, Lanes total)
{
    return {_mm256_fmadd_ps(value.mVector, _mm256_set1_ps(weight), total.mVector)};
}
#endif

// The position half of several points at a time (core/grid_sample.h).

struct Mask
{
    Integers mVector; // -1 where true
};

struct Indices
{
    Integers mVector;
};

POSEWARP_INLINE Lanes operator-(Lanes a)
{
    return -a.mVector;
}

POSEWARP_INLINE Mask operator<(Lanes a, Lanes b)
{
    return {a.mVector < b.mVector};
}

POSEWARP_INLINE Mask operator>(Lanes a, Lanes b)
{
    return {a.mVector > b.mVector};
}

POSEWARP_INLINE Mask operator==(Lanes a, Lanes b)
{
    return {a.mVector == b.mVector};
}

POSEWARP_INLINE Lanes select(Mask condition, Lanes a, Lanes b)
{
    return condition.mVector ? a.mVector : b.mVector;
}

POSEWARP_INLINE Lanes add(Lanes a, Lanes b)
{
    return a.mVector + b.mVector;
}

POSEWARP_INLINE Lanes multiply(Lanes a, Lanes b)
{
    return a.mVector * b.mVector;
}

POSEWARP_INLINE Lanes divide(Lanes a, Lanes b)
{
    return a.mVector / b.mVector;
}

POSEWARP_INLINE Lanes magnitude(Lanes x)
{
    return (Floats) ((Integers) x.mVector & INT32_MAX);
}

template <typename Function>
POSEWARP_INLINE Lanes inEachLane(Function const& function)
{
    Lanes result;
    for (int i = 0; i < kLANES; ++i)
    {
        result.mVector[i] = function(i);
    }
    return result;
}

POSEWARP_INLINE Lanes remainder(Lanes a, Lanes b)
{
    return inEachLane([&](int i) { return fmodf(a.mVector[i], b.mVector[i]); });
}

#if defined(__FMA__)
POSEWARP_INLINE Lanes fuse(Lanes a, Lanes b, Lanes c)
{
    return {_mm256_fmadd_ps(a.mVector, b.mVector, c.mVector)};
}

POSEWARP_INLINE Lanes roundDown(Lanes x)
{
    return {_mm256_floor_ps(x.mVector)};
}

POSEWARP_INLINE Lanes roundToZero(Lanes x)
{
    return {_mm256_round_ps(x.mVector, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC)};
}

POSEWARP_INLINE Lanes roundToEven(Lanes x)
{
    return {_mm256_round_ps(x.mVector, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
#else
POSEWARP_INLINE Lanes fuse(Lanes a, Lanes b, Lanes c)
{
    return inEachLane([&](int i) { return fmaf(a.mVector[i], b.mVector[i], c.mVector[i]); });
}

POSEWARP_INLINE Lanes roundDown(Lanes x)
{
    return inEachLane([&](int i) { return floorf(x.mVector[i]); });
}

POSEWARP_INLINE Lanes roundToZero(Lanes x)
{
    return inEachLane([&](int i) { return truncf(x.mVector[i]); });
}

POSEWARP_INLINE Lanes roundToEven(Lanes x)
{
    return inEachLane([&](int i) { return nearbyintf(x.mVector[i]); });
}
#endif

// As in the core; what is outside is made -1 before the cast, so that the cast is defined.
POSEWARP_INLINE Indices toIndex(Lanes x, int step, int64_t size)
{
    Integers const inside = (x.mVector >= -1.0F) & (x.mVector <= static_cast<float>(size));
    Floats const known = inside ? x.mVector : Floats{} - 1.0F;
    Integers const index = __builtin_convertvector(known, Integers) + step;
    return {index | ~(inside & (index < static_cast<int32_t>(size)))};
}

POSEWARP_INLINE Indices combine(Indices outer, int64_t size, Indices inner)
{
    Integers const outside = (outer.mVector | inner.mVector) < 0;
    return {(outer.mVector * static_cast<int32_t>(size) + inner.mVector) | outside};
}

POSEWARP_INLINE Lanes zeroOutside(Indices pixel, Lanes weight)
{
    return (Floats) ((pixel.mVector >= 0) & (Integers) weight.mVector);
}

// To and from memory, at any alignment.
POSEWARP_INLINE Lanes load(float const* from)
{
    Lanes lanes;
    std::memcpy(&lanes, from, sizeof(lanes));
    return lanes;
}

template <typename Half>
POSEWARP_INLINE Lanes load(Half const* from)
{
    Lanes lanes;
    for (int i = 0; i < kLANES; ++i)
    {
        lanes.mVector[i] = toFloat(from[i]);
    }
    return lanes;
}

POSEWARP_INLINE void store(float* to, Lanes lanes)
{
    std::memcpy(to, &lanes, sizeof(lanes));
}

template <typename Half>
POSEWARP_INLINE void store(Half* to, Lanes lanes)
{
    for (int i = 0; i < kLANES; ++i)
    {
        to[i] = fromFloat<Half>(lanes.mVector[i]);
    }
}

#if defined(__F16C__)
POSEWARP_INLINE Lanes load(Fp16 const* from)
{
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<__m128i const*>(from)))};
}

POSEWARP_INLINE void store(Fp16* to, Lanes lanes)
{
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(lanes.mVector, _MM_FROUND_TO_NEAREST_INT));
}
#endif

#if defined(__clang__)
#define POSEWARP_SHUFFLE(a, b, ...) Lanes(__builtin_shufflevector(a.mVector, b.mVector, __VA_ARGS__))
#else
#define POSEWARP_SHUFFLE(a, b, ...) Lanes(__builtin_shuffle(a.mVector, b.mVector, Integers{__VA_ARGS__}))
#endif

// rows[i][j] <-> rows[j][i]
POSEWARP_INLINE void transpose(Lanes (&rows)[kLANES])
{
    Lanes pairs[kLANES], quads[kLANES];
    for (int i = 0; i < kLANES; i += 2)
    {
        pairs[i] = POSEWARP_SHUFFLE(rows[i], rows[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        pairs[i + 1] = POSEWARP_SHUFFLE(rows[i], rows[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    for (int i = 0; i < kLANES; i += 4)
    {
        for (int j = 0; j < 2; ++j)
        {
            quads[i + 2 * j] = POSEWARP_SHUFFLE(pairs[i + j], pairs[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            quads[i + 2 * j + 1] = POSEWARP_SHUFFLE(pairs[i + j], pairs[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
    }
    for (int i = 0; i < 4; ++i)
    {
        rows[i] = POSEWARP_SHUFFLE(quads[i], quads[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        rows[i + 4] = POSEWARP_SHUFFLE(quads[i], quads[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}

POSEWARP_INLINE int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

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
            mRow[lane] = tensor + (image * channels + smaller(block * kLANES + lane, channels - 1)) * length;
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
