#define POSEWARP_WINOGRAD kWINOGRAD_AVX512
#define POSEWARP_SIMD "avx512"
#define POSEWARP_LANES 16
#define POSEWARP_ROWS 8
#include "winograd.inl"
