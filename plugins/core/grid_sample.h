// GridSample, once, for host and device: the whole semantics of ONNX GridSample and of PyTorch's grid_sample.
//
// Two halves. The position half (locate) turns one grid point into taps: which pixels, with which weights. It is
// always fp32 and runs once a point. The sum half (sum) adds the taps of one channel, or of several at a time: what a
// pixel is comes from the caller's loader, so one body serves SIMD lanes, CUDA NCHW and CUDA channel-last kernels.
//
// The position is computed with the operations, the order and the roundings of PyTorch's CPU kernels (as built for AVX2
// and AVX-512: fused multiply-adds and all), so that even nearest agrees bit for bit. A compiler that fuses more changes
// that: compile host code with -ffp-contract=off; device code asks for each rounding itself.
#pragma once

#include <cmath>
#include <cstdint>

// Always inlined: files built for other instruction sets share this header, and a linker that merged their copies of
// one function could hand AVX2 code to a CPU without it.
#ifndef POSEWARP_HOST_DEVICE
#if defined(__CUDACC__)
#define POSEWARP_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define POSEWARP_HOST_DEVICE inline __attribute__((always_inline))
#endif
#endif

namespace posewarp
{

enum class Mode : int32_t
{
    kBILINEAR = 0, // trilinear for volumes
    kNEAREST = 1,  // ties to even
    kBICUBIC = 2,  // a = -0.75, images only
};

enum class Padding : int32_t
{
    kZEROS = 0,
    kBORDER = 1,
    kREFLECTION = 2,
};

struct Attributes
{
    Mode mode;
    Padding padding;
    bool alignCorners; // true: -1 and 1 are the centres of the outer pixels; false: their outer edges
};

// features (batch, channels, [depth,] height, width), grid (batch, [outDepth,] outHeight, outWidth, spatialRank),
// output (batch, channels, [outDepth,] outHeight, outWidth). Images have spatialRank 2, depth and outDepth 1.
struct Sizes
{
    int32_t spatialRank;
    int64_t batch, channels;
    int64_t depth, height, width;
    int64_t outDepth, outHeight, outWidth;

    POSEWARP_HOST_DEVICE constexpr int64_t pixels() const
    {
        return depth * height * width;
    }

    POSEWARP_HOST_DEVICE constexpr int64_t outPixels() const
    {
        return outDepth * outHeight * outWidth;
    }

    POSEWARP_HOST_DEVICE constexpr int64_t outElements() const
    {
        return batch * channels * outPixels();
    }
};

// Why these sizes and attributes cannot be sampled; nullptr when they can. An empty output is fine (nothing to do).
POSEWARP_HOST_DEVICE constexpr char const* findProblem(Sizes const& s, Attributes const& a)
{
    return s.spatialRank != 2 && s.spatialRank != 3 ? "spatial rank must be 2 or 3"
        : s.batch < 0 || s.channels < 0 || s.depth < 0 || s.height < 0 || s.width < 0 || s.outDepth < 0
            || s.outHeight < 0 || s.outWidth < 0
        ? "sizes must not be negative"
        : s.spatialRank == 2 && (s.depth != 1 || s.outDepth != 1) ? "an image must have depth 1"
        : a.mode != Mode::kBILINEAR && a.mode != Mode::kNEAREST && a.mode != Mode::kBICUBIC ? "unknown mode"
        : a.padding != Padding::kZEROS && a.padding != Padding::kBORDER && a.padding != Padding::kREFLECTION
        ? "unknown padding"
        : a.mode == Mode::kBICUBIC && s.spatialRank == 3 ? "bicubic takes images, not volumes"
        : s.pixels() == 0 && s.outElements() != 0 ? "features must have non-empty spatial sizes"
                                                  : nullptr;
}

// One point's taps (of several points, if Index and Real are vectors). pixel[i] is an offset within one channel's plane or volume, or -1 for a tap that lies outside and
// counts as a zero pixel. Nearest has one pixel and no use for its weight; bicubic has 4 rows of 4 pixels and
// weight[0..3] along x, weight[4..7] along y; bilinear has a weight a pixel.
template <Mode kMODE, int kRANK, typename Index = int64_t, typename Real = float>
struct Taps
{
    static_assert(kRANK == 2 || kRANK == 3, "images or volumes");
    static_assert(kMODE != Mode::kBICUBIC || kRANK == 2, "bicubic takes images");
    static constexpr int kPIXELS = kMODE == Mode::kNEAREST ? 1 : kMODE == Mode::kBICUBIC ? 16 : 1 << kRANK;
    static constexpr int kWEIGHTS = kMODE == Mode::kBICUBIC ? 8 : kPIXELS;

    Index pixel[kPIXELS];
    Real weight[kWEIGHTS];
};

// value * weight + total: fused where that is one instruction. More types may have their own.
template <typename Value>
POSEWARP_HOST_DEVICE Value multiplyAdd(Value const& value, float weight, Value const& total)
{
    return value * weight + total;
}

POSEWARP_HOST_DEVICE float multiplyAdd(float value, float weight, float total)
{
#if defined(__FMA__) || defined(__CUDA_ARCH__)
    return fmaf(value, weight, total);
#else
    return value * weight + total;
#endif
}

namespace detail
{

// What the position half is made of: fp32 operations, each rounded once, that no compiler may merge. A vector of points
// brings its own of the same names.
POSEWARP_HOST_DEVICE float add(float a, float b)
{
#if defined(__CUDA_ARCH__)
    return __fadd_rn(a, b);
#else
    return a + b;
#endif
}

POSEWARP_HOST_DEVICE float multiply(float a, float b)
{
#if defined(__CUDA_ARCH__)
    return __fmul_rn(a, b);
#else
    return a * b;
#endif
}

// a * b + c, rounded once. Where the host has no such instruction this is a slow function, but an exact one.
POSEWARP_HOST_DEVICE float fuse(float a, float b, float c)
{
#if defined(__CUDA_ARCH__)
    return __fmaf_rn(a, b, c);
#else
    return fmaf(a, b, c);
#endif
}

POSEWARP_HOST_DEVICE float divide(float a, float b)
{
#if defined(__CUDA_ARCH__)
    return __fdiv_rn(a, b);
#else
    return a / b;
#endif
}

POSEWARP_HOST_DEVICE float remainder(float a, float b)
{
    return fmodf(a, b);
}

POSEWARP_HOST_DEVICE float magnitude(float x)
{
    return fabsf(x);
}

POSEWARP_HOST_DEVICE float roundDown(float x)
{
    return floorf(x);
}

POSEWARP_HOST_DEVICE float roundToZero(float x)
{
    return truncf(x);
}

POSEWARP_HOST_DEVICE float roundToEven(float x)
{
    return nearbyintf(x);
}

POSEWARP_HOST_DEVICE float select(bool condition, float a, float b)
{
    return condition ? a : b;
}

// Whole-numbered x plus step as an index, or -1 when outside [0, size). Compared in float first, so the cast is
// defined for NaN, infinite and huge x; then as integers, as floats above 2^24 cannot tell neighbours apart.
POSEWARP_HOST_DEVICE int64_t toIndex(float x, int step, int64_t size)
{
    if (!(x >= -1.0F && x <= static_cast<float>(size)))
    {
        return -1;
    }
    int64_t const index = static_cast<int64_t>(x) + step;
    return index < size ? index : -1;
}

// The pixel in row `outer` of rows of `size` pixels; -1 if either lies outside.
POSEWARP_HOST_DEVICE int64_t combine(int64_t outer, int64_t size, int64_t inner)
{
    return outer >= 0 && inner >= 0 ? outer * size + inner : -1;
}

POSEWARP_HOST_DEVICE float zeroOutside(int64_t pixel, float weight)
{
    return pixel >= 0 ? weight : 0.0F;
}

// The last pixel for NaN in volumes, the first in images: PyTorch's two CPU kernels differ.
template <int kRANK, typename Real>
POSEWARP_HOST_DEVICE Real clip(Real x, int64_t size)
{
    Real const zero{0.0F}, last{static_cast<float>(size - 1)};
    Real const atLeastZero = kRANK == 2 ? select(x > zero, x, zero) : select(x < zero, zero, x);
    return select(atLeastZero < last, atLeastZero, last);
}

// Mirror at the centres (alignCorners) or at the outer edges of the outer pixels. NaN for infinity.
// PyTorch's kernel for volumes takes the exact remainder, the one for images truncates a quotient.
template <int kRANK, typename Real>
POSEWARP_HOST_DEVICE Real reflect(Real x, int64_t size, bool alignCorners)
{
    if (alignCorners && size == 1)
    {
        return Real{0.0F};
    }
    Real const low{alignCorners ? 0.0F : -0.5F};
    Real const span{static_cast<float>(alignCorners ? size - 1 : size)};
    Real const distance = magnitude(add(x, -low));
    if constexpr (kRANK == 3)
    {
        Real const extra = remainder(distance, span);
        Real const oddFlips = remainder(roundDown(divide(distance, span)), Real{2.0F});
        return add(select(oddFlips == Real{0.0F}, extra, add(span, -extra)), low);
    }
    else
    {
        Real const twice = multiply(Real{2.0F}, span);
        Real const extra = fuse(-roundToZero(divide(distance, twice)), twice, distance);
        Real const back = add(twice, -extra);
        return add(select(back < extra, back, extra), low);
    }
}

// Where a tap at x goes: x itself, or where the padding sends it.
template <int kRANK, typename Real>
POSEWARP_HOST_DEVICE Real pad(Real x, int64_t size, Attributes const& attributes)
{
    if (attributes.padding == Padding::kZEROS)
    {
        return x;
    }
    return clip<kRANK>(
        attributes.padding == Padding::kREFLECTION ? reflect<kRANK>(x, size, attributes.alignCorners) : x, size);
}

// Grid value (-1..1) to pixel coordinate (pixel centres at integers).
template <int kRANK, typename Real>
POSEWARP_HOST_DEVICE Real toPixel(Real value, int64_t size, bool alignCorners)
{
    Real const fromLeft = add(value, Real{1.0F});
    if (alignCorners)
    {
        return multiply(fromLeft, Real{static_cast<float>(size - 1) * 0.5F});
    }
    // Equal but for the last bit, and where the product overflows: as PyTorch's two kernels have it.
    Real const whole{static_cast<float>(size)}, half{0.5F};
    return kRANK == 2 ? fuse(fromLeft, multiply(whole, half), -half)
                      : multiply(add(multiply(fromLeft, whole), Real{-1.0F}), half);
}

// The neighbours along one axis.
template <int kTAPS, typename Real>
struct Axis
{
    decltype(toIndex(Real{0.0F}, 0, 0)) index[kTAPS];
    Real weight[kTAPS];
};

template <int kRANK, typename Real>
POSEWARP_HOST_DEVICE Axis<2, Real> locateLinear(Real value, int64_t size, Attributes const& attributes)
{
    Real const x = pad<kRANK>(toPixel<kRANK>(value, size, attributes.alignCorners), size, attributes);
    Real const one{1.0F}, low = roundDown(x);
    Real const toLow = add(x, -low);
    Real const toHigh = kRANK == 2 ? add(one, -toLow) : add(add(low, one), -x);
    return {{toIndex(low, 0, size), toIndex(low, 1, size)}, {toHigh, toLow}};
}

// Keys' kernel with a = -0.75 at distance x: within 1 pixel, and between 1 and 2. PyTorch fuses the first only.
template <typename Real>
POSEWARP_HOST_DEVICE Real cubicNear(Real x)
{
    return fuse(multiply(fuse(Real{1.25F}, x, Real{-2.25F}), x), x, Real{1.0F});
}

template <typename Real>
POSEWARP_HOST_DEVICE Real cubicFar(Real x)
{
    Real const square = add(multiply(add(multiply(Real{-0.75F}, x), Real{3.75F}), x), Real{-6.0F});
    return add(multiply(square, x), Real{3.0F});
}

// Each tap of a bicubic sample is padded by itself.
template <typename Real>
POSEWARP_HOST_DEVICE auto toPaddedIndex(Real low, float step, int64_t size, Attributes const& attributes)
{
    return toIndex(roundToZero(pad<2>(add(low, Real{step}), size, attributes)), 0, size);
}

template <typename Real>
POSEWARP_HOST_DEVICE Axis<4, Real> locateCubic(Real value, int64_t size, Attributes const& attributes)
{
    Real const x = toPixel<2>(value, size, attributes.alignCorners);
    Real const one{1.0F}, low = roundDown(x);
    Real const t = add(x, -low);
    return {{toPaddedIndex(low, -1.0F, size, attributes), toPaddedIndex(low, 0.0F, size, attributes),
                toPaddedIndex(low, 1.0F, size, attributes), toPaddedIndex(low, 2.0F, size, attributes)},
        {cubicFar(add(t, one)), cubicNear(t), cubicNear(add(one, -t)), cubicFar(add(Real{2.0F}, -t))}};
}

// The sum of four products, in PyTorch's order.
template <typename Value>
POSEWARP_HOST_DEVICE Value sumFour(
    Value const& a, Value const& b, Value const& c, Value const& d, float const* weight)
{
    return multiplyAdd(d, weight[3], multiplyAdd(c, weight[2], multiplyAdd(b, weight[1], a * weight[0])));
}

template <typename Index, typename Load>
POSEWARP_HOST_DEVICE auto sumFour(Index const* pixel, float const* weight, Load const& load)
{
    return sumFour(load(pixel[0]), load(pixel[1]), load(pixel[2]), load(pixel[3]), weight);
}

} // namespace detail

// Where one grid point samples. point: spatialRank values, x first, then y, then z.
template <Mode kMODE, int kRANK, typename Index = int64_t, typename Real = float>
POSEWARP_HOST_DEVICE Taps<kMODE, kRANK, Index, Real> locate(
    Real const* point, Sizes const& sizes, Attributes const& attributes)
{
    using namespace detail;
    Taps<kMODE, kRANK, Index, Real> taps{};
    if constexpr (kMODE == Mode::kNEAREST)
    {
        int64_t const extent[3] = {sizes.width, sizes.height, sizes.depth};
        decltype(toIndex(point[0], 0, 0)) index[kRANK];
        for (int axis = 0; axis < kRANK; ++axis)
        {
            Real const x = toPixel<kRANK>(point[axis], extent[axis], attributes.alignCorners);
            index[axis] = toIndex(roundToEven(pad<kRANK>(x, extent[axis], attributes)), 0, extent[axis]);
        }
        auto const row = kRANK == 3 ? combine(index[kRANK - 1], sizes.height, index[1]) : index[1];
        taps.pixel[0] = static_cast<Index>(combine(row, sizes.width, index[0]));
        taps.weight[0] = Real{1.0F};
    }
    else if constexpr (kMODE == Mode::kBICUBIC)
    {
        Axis<4, Real> const x = locateCubic(point[0], sizes.width, attributes);
        Axis<4, Real> const y = locateCubic(point[1], sizes.height, attributes);
        for (int i = 0; i < 4; ++i)
        {
            taps.weight[i] = x.weight[i];
            taps.weight[4 + i] = y.weight[i];
            for (int j = 0; j < 4; ++j)
            {
                taps.pixel[4 * i + j] = static_cast<Index>(combine(y.index[i], sizes.width, x.index[j]));
            }
        }
    }
    else
    {
        Axis<2, Real> const x = locateLinear<kRANK>(point[0], sizes.width, attributes);
        Axis<2, Real> const y = locateLinear<kRANK>(point[1], sizes.height, attributes);
        for (int i = 0; i < 4; ++i)
        {
            taps.pixel[i] = static_cast<Index>(combine(y.index[i >> 1], sizes.width, x.index[i & 1]));
            taps.weight[i] = multiply(x.weight[i & 1], y.weight[i >> 1]);
        }
        if constexpr (kRANK == 3)
        {
            Axis<2, Real> const z = locateLinear<3>(point[2], sizes.depth, attributes);
            for (int i = 7; i >= 0; --i)
            {
                auto const row = combine(z.index[i >> 2], sizes.height, y.index[i >> 1 & 1]);
                auto const pixel = combine(row, sizes.width, x.index[i & 1]);
                taps.pixel[i] = static_cast<Index>(pixel);
                // What lies outside is skipped, as in PyTorch: a NaN weight makes an image's output NaN, not a volume's.
                taps.weight[i] = zeroOutside(pixel, multiply(taps.weight[i & 3], z.weight[i >> 2]));
            }
        }
    }
    return taps;
}

// The sample: load(pixel) gives a Value (a float, or several channels at once) of the pixel, and zero for -1.
// Value needs Value * float, Value + Value and, where it can be fused, multiplyAdd beside its type.
template <Mode kMODE, int kRANK, typename Index, typename Load>
POSEWARP_HOST_DEVICE auto sum(Taps<kMODE, kRANK, Index> const& taps, Load const& load)
{
    using namespace detail;
    if constexpr (kMODE == Mode::kNEAREST)
    {
        return load(taps.pixel[0]);
    }
    else if constexpr (kMODE == Mode::kBICUBIC)
    {
        return sumFour(sumFour(taps.pixel, taps.weight, load), sumFour(taps.pixel + 4, taps.weight, load),
            sumFour(taps.pixel + 8, taps.weight, load), sumFour(taps.pixel + 12, taps.weight, load), taps.weight + 4);
    }
    else if constexpr (kRANK == 2)
    {
        return sumFour(taps.pixel, taps.weight, load);
    }
    else
    {
        auto total = load(taps.pixel[0]) * taps.weight[0];
        for (int i = 1; i < Taps<kMODE, kRANK, Index>::kPIXELS; ++i)
        {
            total = total + load(taps.pixel[i]) * taps.weight[i];
        }
        return total;
    }
}

// Calls visitor.run<kMODE, kRANK>() for a mode and rank that findProblem accepts. For the host: a visitor launches.
template <typename Visitor>
inline __attribute__((always_inline)) auto dispatch(Mode mode, int32_t spatialRank, Visitor const& visitor)
{
    if (spatialRank == 3)
    {
        return mode == Mode::kNEAREST ? visitor.template run<Mode::kNEAREST, 3>()
                                      : visitor.template run<Mode::kBILINEAR, 3>();
    }
    return mode == Mode::kNEAREST ? visitor.template run<Mode::kNEAREST, 2>()
        : mode == Mode::kBICUBIC  ? visitor.template run<Mode::kBICUBIC, 2>()
                                  : visitor.template run<Mode::kBILINEAR, 2>();
}

} // namespace posewarp
