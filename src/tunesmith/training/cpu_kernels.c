/* What stands between a decoder's matrix products, each in one pass, for torch's tensors on a CPU.

   Compiled where it runs (cpu_kernels.py), once for each type of number (cpu_numbers.h). Rows are independent, so a
   result depends neither on the number of threads nor on how rows are cut. The loops are left to the compiler to
   vectorize. */

#include "cpu_numbers.h"

/* out = weight * sum / rms(sum), where sum = x + added; without `added` it is x itself and is not written. */
void rms_norm(size rows, size width, float epsilon, const number *x, const number *added, const number *weight,
              number *sum, number *out, float *inverse) {
#pragma omp parallel for
    for (size row = 0; row < rows; row++) {
        const number *in = x + row * width;
        if (added != NULL) {
            number *into = sum + row * width;
#pragma omp simd
            for (size i = 0; i < width; i++) into[i] = narrow(wide(in[i]) + wide(added[row * width + i]));
            in = into;
        }
        float square = 0.0f;
#pragma omp simd reduction(+ : square)
        for (size i = 0; i < width; i++) square += wide(in[i]) * wide(in[i]);
        float scale = 1.0f / sqrtf(square / (float)width + epsilon);
        inverse[row] = scale;
#pragma omp simd
        for (size i = 0; i < width; i++) out[row * width + i] = narrow(wide(in[i]) * scale * wide(weight[i]));
    }
}

/* by_x = by_sum + the gradient of norm; without `by_sum` only the latter. */
void rms_norm_backward(size rows, size width, const number *by_out, const number *by_sum, const number *x,
                       const number *weight, const float *inverse, number *by_x) {
#pragma omp parallel for
    for (size row = 0; row < rows; row++) {
        const number *slope = by_out + row * width, *in = x + row * width;
        number *into = by_x + row * width;
        float along = 0.0f, scale = inverse[row];
#pragma omp simd reduction(+ : along)
        for (size i = 0; i < width; i++) along += wide(slope[i]) * wide(weight[i]) * wide(in[i]);
        /* What points along x would only change its length, which the norm takes away. */
        float back = along * scale * scale / (float)width;
        if (by_sum != NULL) {
#pragma omp simd
            for (size i = 0; i < width; i++)
                into[i] = narrow((wide(slope[i]) * wide(weight[i]) - wide(in[i]) * back) * scale +
                                 wide(by_sum[row * width + i]));
        } else {
#pragma omp simd
            for (size i = 0; i < width; i++)
                into[i] = narrow((wide(slope[i]) * wide(weight[i]) - wide(in[i]) * back) * scale);
        }
    }
}

/* out = silu(gate) * up */
void swiglu(size count, const number *restrict gate, const number *restrict up, number *restrict out) {
#pragma omp parallel for simd
    for (size i = 0; i < count; i++) {
        float x = wide(gate[i]);
        out[i] = narrow(x / (1.0f + exponential(-x)) * wide(up[i]));
    }
}

void swiglu_backward(size count, const number *restrict by_out, const number *restrict gate, const number *restrict up,
                     number *restrict by_gate, number *restrict by_up) {
#pragma omp parallel for simd
    for (size i = 0; i < count; i++) {
        float x = wide(gate[i]), slope = wide(by_out[i]);
        float sigmoid = 1.0f / (1.0f + exponential(-x));
        float silu = x * sigmoid;
        by_up[i] = narrow(slope * silu);
        by_gate[i] = narrow(slope * wide(up[i]) * (sigmoid + silu * (1.0f - sigmoid)));
    }
}

/* The two halves of each head turned by the token's angles; sign -1 turns back. x and out (tokens, heads, width) have
   strides of their own for tokens and heads; cosine and sine are (tokens, width), both halves alike. */
void rotate(size tokens, size heads, size width, float sign, size x_token, size x_head, size out_token, size out_head,
            const number *x, const number *cosine, const number *sine, number *out) {
    size half = width / 2;
#pragma omp parallel for
    for (size token = 0; token < tokens; token++) {
        const number *restrict along = cosine + token * width, *restrict across = sine + token * width;
        for (size head = 0; head < heads; head++) {
            const number *restrict in = x + token * x_token + head * x_head;
            number *restrict into = out + token * out_token + head * out_head;
#pragma omp simd
            for (size i = 0; i < half; i++) {
                float first = wide(in[i]), second = wide(in[half + i]);
                float stay = wide(along[i]), turn = sign * wide(across[i]);
                into[i] = narrow(first * stay - second * turn);
                into[half + i] = narrow(second * stay + first * turn);
            }
        }
    }
}

/* Powers of e, and their sum: of scale * (x - the largest x). `powers` has room for whole vectors. */
static float softmax_powers(size count, float scale, const number *x, float *powers, float *most) {
    size whole = (count + LANES - 1) / LANES * LANES;
    float largest = -INFINITY, sum = 0.0f;
#pragma omp simd reduction(max : largest)
    for (size i = 0; i < count; i++) {
        powers[i] = wide(x[i]);
        largest = powers[i] > largest ? powers[i] : largest;
    }
    for (size i = count; i < whole; i++) powers[i] = -INFINITY; /* nothing beside the largest, whose power is 1 */
#pragma omp simd reduction(+ : sum)
    for (size i = 0; i < whole; i++) {
        powers[i] = exponential((powers[i] - largest) * scale);
        sum += powers[i];
    }
    *most = largest;
    return sum;
}

/* In place: softmax of scale * logits (rows, keys). Rows are blocks of `queries`; a block's last query sees all keys,
   each before it one less. What a row does not see becomes zero. `room` (threads, keys + LANES) is to work in. */
void causal_softmax(size rows, size keys, size queries, float scale, number *logits, size threads, float *room) {
#pragma omp parallel num_threads((int)threads)
    {
        float *powers = room + omp_get_thread_num() * (keys + LANES);
#pragma omp for
        for (size row = 0; row < rows; row++) {
            number *of = logits + row * keys;
            size seen = keys - queries + row % queries + 1;
            float largest, share = 1.0f / softmax_powers(seen, scale, of, powers, &largest);
#pragma omp simd
            for (size i = 0; i < seen; i++) of[i] = narrow(powers[i] * share);
            memset(of + seen, 0, (size_t)(keys - seen) * sizeof *of);
        }
    }
}

/* In place: `by_weights` (rows, keys) become the gradient of the logits before their scale. */
void softmax_backward(size rows, size keys, float scale, const number *weights, number *by_weights) {
#pragma omp parallel for
    for (size row = 0; row < rows; row++) {
        const number *restrict weight = weights + row * keys;
        number *restrict slope = by_weights + row * keys;
        float mean = 0.0f;
#pragma omp simd reduction(+ : mean)
        for (size i = 0; i < keys; i++) mean += wide(weight[i]) * wide(slope[i]);
#pragma omp simd
        for (size i = 0; i < keys; i++) slope[i] = narrow((wide(slope[i]) - mean) * wide(weight[i]) * scale);
    }
}

/* Cross-entropy of each row of logits against its target; the logits (rows, vocabulary) become its gradient, in place.
   `room` (threads, vocabulary + LANES) is to work in. */
void cross_entropy(size rows, size vocabulary, number *logits, const int64_t *targets, float *losses, size threads,
                   float *room) {
#pragma omp parallel num_threads((int)threads)
    {
        float *powers = room + omp_get_thread_num() * (vocabulary + LANES);
#pragma omp for
        for (size row = 0; row < rows; row++) {
            number *of = logits + row * vocabulary, *target = of + targets[row];
            float largest, sum = softmax_powers(vocabulary, 1.0f, of, powers, &largest);
            losses[row] = largest - wide(*target) + logf(sum);
            float share = 1.0f / sum;
#pragma omp simd
            for (size i = 0; i < vocabulary; i++) of[i] = narrow(powers[i] * share);
            *target = narrow(powers[targets[row]] * share - 1.0f);
        }
    }
}
