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

// One point's taps. pixel[i] is an offset within one channel's plane or volume, or -1 for a tap that lies outside and
// counts as a zero pixel. Nearest has one pixel and no use for its weight; bicubic has 4 rows of 4 pixels and
// weight[0..3] along x, weight[4..7] along y; bilinear has a weight a pixel.
template <Mode kMODE, int kRANK, typename Index = int64_t>
struct Taps
{
    static_assert(kRANK == 2 || kRANK == 3, "images or volumes");
    static_assert(kMODE != Mode::kBICUBIC || kRANK == 2, "bicubic takes images");
    static constexpr int kPIXELS = kMODE == Mode::kNEAREST ? 1 : kMODE == Mode::kBICUBIC ? 16 : 1 << kRANK;
    static constexpr int kWEIGHTS = kMODE == Mode::kBICUBIC ? 8 : kPIXELS;

    Index pixel[kPIXELS];
    float weight[kWEIGHTS];
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

// fp32 operations, each rounded once, that no compiler may merge.
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

// The last pixel for NaN in volumes, the first in images: PyTorch's two CPU kernels differ.
template <int kRANK>
POSEWARP_HOST_DEVICE float clip(float x, int64_t size)
{
    float const last = static_cast<float>(size - 1);
    float const atLeastZero = kRANK == 2 ? (x > 0.0F ? x : 0.0F) : (x < 0.0F ? 0.0F : x);
    return atLeastZero < last ? atLeastZero : last;
}

// Mirror at the centres (alignCorners) or at the outer edges of the outer pixels. NaN for infinity.
// PyTorch's kernel for volumes takes the exact remainder, the one for images truncates a quotient.
template <int kRANK>
POSEWARP_HOST_DEVICE float reflect(float x, int64_t size, bool alignCorners)
{
    if (alignCorners && size == 1)
    {
        return 0.0F;
    }
    float const low = alignCorners ? 0.0F : -0.5F;
    float const span = static_cast<float>(alignCorners ? size - 1 : size);
    float const distance = fabsf(add(x, -low));
    if (kRANK == 3)
    {
        float const extra = fmodf(distance, span);
        bool const even = fmodf(floorf(divide(distance, span)), 2.0F) == 0.0F;
        return add(even ? extra : add(span, -extra), low);
    }
    float const twice = 2.0F * span;
    float const extra = fuse(-truncf(divide(distance, twice)), twice, distance);
    float const back = add(twice, -extra);
    return add(back < extra ? back : extra, low);
}

// Where a tap at x goes: x itself, or where the padding sends it.
template <int kRANK>
POSEWARP_HOST_DEVICE float pad(float x, int64_t size, Attributes const& attributes)
{
    if (attributes.padding == Padding::kZEROS)
    {
        return x;
    }
    return clip<kRANK>(
        attributes.padding == Padding::kREFLECTION ? reflect<kRANK>(x, size, attributes.alignCorners) : x, size);
}

// Grid value (-1..1) to pixel coordinate (pixel centres at integers).
template <int kRANK>
POSEWARP_HOST_DEVICE float toPixel(float value, int64_t size, bool alignCorners)
{
    float const fromLeft = add(value, 1.0F);
    if (alignCorners)
    {
        return multiply(fromLeft, static_cast<float>(size - 1) * 0.5F);
    }
    // Equal but where the product overflows: as PyTorch's two kernels have it.
    return kRANK == 2 ? fuse(fromLeft, static_cast<float>(size) * 0.5F, -0.5F)
                      : add(multiply(fromLeft, static_cast<float>(size)), -1.0F) * 0.5F;
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

// The two neighbours along one axis, bilinear.
struct Pair
{
    int64_t index[2];
    float weight[2];
};

template <int kRANK>
POSEWARP_HOST_DEVICE Pair locatePair(float value, int64_t size, Attributes const& attributes)
{
    float const x = pad<kRANK>(toPixel<kRANK>(value, size, attributes.alignCorners), size, attributes);
    float const low = floorf(x);
    float const toLow = add(x, -low);
    float const toHigh = kRANK == 2 ? add(1.0F, -toLow) : add(add(low, 1.0F), -x);
    return {{toIndex(low, 0, size), toIndex(low, 1, size)}, {toHigh, toLow}};
}

// The four neighbours along one axis, bicubic: each tap is padded by itself.
struct Quad
{
    int64_t index[4];
    float weight[4];
};

// Keys' kernel with a = -0.75 at distance x: within 1 pixel, and between 1 and 2.
POSEWARP_HOST_DEVICE float cubicNear(float x)
{
    return fuse(multiply(fuse(1.25F, x, -2.25F), x), x, 1.0F);
}

POSEWARP_HOST_DEVICE float cubicFar(float x)
{
    return add(multiply(add(multiply(add(multiply(-0.75F, x), 3.75F), x), -6.0F), x), 3.0F);
}

POSEWARP_HOST_DEVICE Quad locateQuad(float value, int64_t size, Attributes const& attributes)
{
    float const x = toPixel<2>(value, size, attributes.alignCorners);
    float const low = floorf(x);
    float const t = add(x, -low);
    Quad quad = {{}, {cubicFar(add(t, 1.0F)), cubicNear(t), cubicNear(add(1.0F, -t)), cubicFar(add(2.0F, -t))}};
    for (int i = 0; i < 4; ++i)
    {
        quad.index[i] = toIndex(truncf(pad<2>(add(low, static_cast<float>(i - 1)), size, attributes)), 0, size);
    }
    return quad;
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
template <Mode kMODE, int kRANK, typename Index = int64_t>
POSEWARP_HOST_DEVICE Taps<kMODE, kRANK, Index> locate(
    float const* point, Sizes const& sizes, Attributes const& attributes)
{
    using namespace detail;
    Taps<kMODE, kRANK, Index> taps{};
    if constexpr (kMODE == Mode::kNEAREST)
    {
        int64_t pixel = 0;
        int64_t const extent[3] = {sizes.width, sizes.height, sizes.depth};
        for (int axis = kRANK - 1; axis >= 0; --axis)
        {
            float const x = pad<kRANK>(
                toPixel<kRANK>(point[axis], extent[axis], attributes.alignCorners), extent[axis], attributes);
            int64_t const index = toIndex(nearbyintf(x), 0, extent[axis]);
            pixel = pixel < 0 || index < 0 ? -1 : pixel * extent[axis] + index;
        }
        taps.pixel[0] = static_cast<Index>(pixel);
        taps.weight[0] = 1.0F;
    }
    else if constexpr (kMODE == Mode::kBICUBIC)
    {
        Quad const x = locateQuad(point[0], sizes.width, attributes);
        Quad const y = locateQuad(point[1], sizes.height, attributes);
        for (int i = 0; i < 4; ++i)
        {
            taps.weight[i] = x.weight[i];
            taps.weight[4 + i] = y.weight[i];
            for (int j = 0; j < 4; ++j)
            {
                bool const inside = x.index[j] >= 0 && y.index[i] >= 0;
                taps.pixel[4 * i + j] = static_cast<Index>(inside ? y.index[i] * sizes.width + x.index[j] : -1);
            }
        }
    }
    else
    {
        Pair const x = locatePair<kRANK>(point[0], sizes.width, attributes);
        Pair const y = locatePair<kRANK>(point[1], sizes.height, attributes);
        Pair const z = kRANK == 3 ? locatePair<kRANK>(point[kRANK - 1], sizes.depth, attributes) : Pair{{0, 0}, {1, 1}};
        for (int i = 0; i < Taps<kMODE, kRANK, Index>::kPIXELS; ++i)
        {
            int const ix = i & 1, iy = (i >> 1) & 1, iz = i >> 2;
            bool const inside = x.index[ix] >= 0 && y.index[iy] >= 0 && z.index[iz] >= 0;
            taps.pixel[i]
                = static_cast<Index>(inside ? (z.index[iz] * sizes.height + y.index[iy]) * sizes.width + x.index[ix] : -1);
            float const plane = multiply(x.weight[ix], y.weight[iy]);
            // A NaN weight makes an image's output NaN and leaves a volume's at 0, as in PyTorch.
            taps.weight[i] = kRANK == 2 ? plane : inside ? multiply(plane, z.weight[iz]) : 0.0F;
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
