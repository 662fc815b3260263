/* Numbers of a tensor, of the type that NUMBER_IS_BF16 says; all arithmetic is in fp32 and only results are rounded. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num(void) { return 0; }
#endif

#ifdef NUMBER_IS_BF16
typedef uint16_t number;

static inline float wide(number x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* To the nearest, ties to even. NaNs stay: those of a processor and those that were bf16 have no bits to carry over. */
static inline number narrow(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (number)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
#else
typedef float number;
static inline float wide(number x) { return x; }
static inline number narrow(float value) { return value; }
#endif

typedef ptrdiff_t size;

#define LANES 16 /* of the longest vector: loops over as many have no rest */

/* e^x within 2 units in the last place (Cody & Waite's reduction, Cephes' polynomial), for -87 <= x <= 88. */
static inline float exponential_within(float x) {
    float turns = rintf(x * 1.44269504088896341f);
    float rest = (x - turns * 0.693359375f) + turns * 2.12194440e-4f;
    float sum = 1.9875691500e-4f;
    sum = sum * rest + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    sum = sum * (rest * rest) + rest + 1.0f;
    uint32_t bits = (uint32_t)((int32_t)turns + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return sum * power;
}

/* The same for every x: its ends are e^-87 and e^88. */
static inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    return exponential_within(x > 88.0f ? 88.0f : x);
}
