// fp16 and bf16 as floats and back, rounding to nearest even. Always inlined, as everything that files for several
// instruction sets share.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace posewarp::cpu
{

#define POSEWARP_INLINE inline __attribute__((always_inline))

struct Fp16
{
    uint16_t bits;
};

struct Bf16
{
    uint16_t bits;
};

template <typename To, typename From>
POSEWARP_INLINE To bitCast(From from)
{
    static_assert(sizeof(To) == sizeof(From), "same size");
    To to;
    std::memcpy(&to, &from, sizeof(to));
    return to;
}

POSEWARP_INLINE float toFloat(float value)
{
    return value;
}

POSEWARP_INLINE float toFloat(Bf16 value)
{
    return bitCast<float>(static_cast<uint32_t>(value.bits) << 16);
}

POSEWARP_INLINE float toFloat(Fp16 value)
{
#if defined(__F16C__)
    return _cvtsh_ss(value.bits);
#else
    uint32_t const sign = static_cast<uint32_t>(value.bits & 0x8000U) << 16;
    uint32_t const magnitude = value.bits & 0x7fffU;
    if (magnitude >= 0x7c00U) // infinite or NaN, which becomes quiet
    {
        return bitCast<float>(sign | 0x7f800000U | (magnitude & 0x3ffU) << 13 | (magnitude > 0x7c00U ? 0x400000U : 0));
    }
    // The exponent's bias differs by 112: as a float's bits the number is 2^112 too small, subnormals too.
    return bitCast<float>(sign | bitCast<uint32_t>(bitCast<float>(magnitude << 13) * 0x1p112F));
#endif
}

template <typename T>
T fromFloat(float value);

template <>
POSEWARP_INLINE float fromFloat<float>(float value)
{
    return value;
}

template <>
POSEWARP_INLINE Bf16 fromFloat<Bf16>(float value)
{
    uint32_t const bits = bitCast<uint32_t>(value);
    uint32_t const rounded = (bits + 0x7fffU + (bits >> 16 & 1U)) >> 16;
    return {static_cast<uint16_t>(value != value ? (bits >> 16 | 0x40U) : rounded)};
}

template <>
POSEWARP_INLINE Fp16 fromFloat<Fp16>(float value)
{
#if defined(__F16C__)
    return {static_cast<uint16_t>(_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT))};
#else
    uint32_t const bits = bitCast<uint32_t>(value);
    uint16_t const sign = static_cast<uint16_t>(bits >> 16 & 0x8000U);
    uint32_t const magnitude = bits & 0x7fffffffU;
    uint32_t half;
    if (magnitude > 0x7f800000U)
    {
        half = 0x7e00U | (magnitude >> 13 & 0x3ffU);
    }
    else if (magnitude >= 0x477ff000U) // 65520 and more round to infinity
    {
        half = 0x7c00U;
    }
    else if (magnitude < 0x38800000U) // below 2^-14 half's step is 2^-24, a float's at 0.5: let the addition round
    {
        half = bitCast<uint32_t>(bitCast<float>(magnitude) + 0.5F) - bitCast<uint32_t>(0.5F);
    }
    else
    {
        half = (magnitude - 0x38000000U + 0xfffU + (magnitude >> 13 & 1U)) >> 13;
    }
    return {static_cast<uint16_t>(sign | half)};
#endif
}

} // namespace posewarp::cpu
