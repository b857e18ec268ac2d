// The vector width of the instruction set that this file is built for.
#pragma once

#if defined(__AVX512F__)
#include <immintrin.h>
#define ASL_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define ASL_VECTOR_BYTES 32
#else
#define ASL_VECTOR_BYTES 16
#endif
