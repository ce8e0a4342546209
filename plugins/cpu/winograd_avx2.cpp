#define POSEWARP_WINOGRAD kWINOGRAD_AVX2
#define POSEWARP_SIMD "avx2"
#define POSEWARP_LANES 8
#define POSEWARP_ROWS 4
#include "winograd.inl"
