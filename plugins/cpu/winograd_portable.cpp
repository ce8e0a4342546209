#define POSEWARP_WINOGRAD kWINOGRAD_PORTABLE
#define POSEWARP_SIMD "portable"
#define POSEWARP_LANES 4
#define POSEWARP_ROWS 4
#include "winograd.inl"
