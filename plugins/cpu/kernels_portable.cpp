#define POSEWARP_KERNELS kPORTABLE
#define POSEWARP_SIMD "portable"
#include "kernels.inl"
