#define POSEWARP_KERNELS kAVX2
#define POSEWARP_SIMD "avx2"
#include "kernels.inl"
