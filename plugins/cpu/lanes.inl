// Vectors of kLANES floats or integers, for the instruction set that the including file is compiled for, and what the
// core's position half asks of a vector of points. The compilers' own vectors (GCC, Clang), so the same lines become
// AVX2, SSE2 or NEON; intrinsics only where those have no operator. Internal to its file, see kernels.inl.

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

} // namespace
} // namespace posewarp::cpu
