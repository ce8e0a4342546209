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

// Channels of one pixel, or pixels of one channel.
struct Lanes
{
    typedef float Vector __attribute__((vector_size(4 * kLANES)));
    Vector mVector;

    POSEWARP_INLINE Lanes operator*(float weight) const
    {
        return {mVector * weight};
    }

    POSEWARP_INLINE Lanes operator+(Lanes other) const
    {
        return {mVector + other.mVector};
    }
};

#if defined(__FMA__)
POSEWARP_INLINE Lanes multiplyAdd(Lanes value, float weight, Lanes total)
{
    return {_mm256_fmadd_ps(value.mVector, _mm256_set1_ps(weight), total.mVector)};
}
#endif

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
#define POSEWARP_SHUFFLE(a, b, ...) Lanes{__builtin_shufflevector(a.mVector, b.mVector, __VA_ARGS__)}
#else
typedef int32_t Order __attribute__((vector_size(4 * kLANES)));
#define POSEWARP_SHUFFLE(a, b, ...) Lanes{__builtin_shuffle(a.mVector, b.mVector, Order{__VA_ARGS__})}
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
    store(packed, Lanes{});
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

template <typename T, Mode kMODE, int kRANK>
void samplePlanes(Problem const& problem, int64_t image, Range points)
{
    Sizes const& sizes = problem.sizes;
    T const* const features = static_cast<T const*>(problem.features) + image * sizes.channels * sizes.pixels();
    T* const output = static_cast<T*>(problem.output) + image * sizes.channels * sizes.outPixels();
    float const* const grid = problem.grid + image * sizes.outPixels() * kRANK;
    for (int64_t point = points.first; point < points.last; ++point)
    {
        auto const taps = posewarp::locate<kMODE, kRANK>(grid + point * kRANK, sizes, problem.attributes);
        for (int64_t channel = 0; channel < sizes.channels; ++channel)
        {
            output[channel * sizes.outPixels() + point]
                = fromFloat<T>(sum(taps, PlanePixels<T>{features + channel * sizes.pixels()}));
        }
    }
}

template <Mode kMODE, int kRANK>
Range locateStripe(Problem const& problem, int64_t image, Range points, int64_t longest, void* taps)
{
    using Tap = Taps<kMODE, kRANK, int32_t>;
    float const* const grid = problem.grid + image * problem.sizes.outPixels() * kRANK;
    Tap* const tap = static_cast<Tap*>(taps);
    int32_t first = INT32_MAX, last = 0;
    for (int64_t i = 0; i < points.count(); ++i)
    {
        tap[i] = posewarp::locate<kMODE, kRANK, int32_t>(
            grid + (points.first + i) * kRANK, problem.sizes, problem.attributes);
        for (int32_t const pixel : tap[i].pixel)
        {
            first = pixel >= 0 && pixel < first ? pixel : first;
            last = pixel > last ? pixel : last;
        }
    }
    first = first < last ? first : last; // all taps may lie outside
    if (last - first >= longest)
    {
        return {0, problem.sizes.pixels()};
    }
    for (int64_t i = 0; i < points.count(); ++i)
    {
        for (int32_t& pixel : tap[i].pixel)
        {
            pixel = pixel < 0 ? -1 : pixel - first;
        }
    }
    return {first, last + 1};
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
        samplePlanes<T, kMODE, kRANK>(mProblem, mImage, mPoints);
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
