/* Attention over a forest (shared_prefix.py) and its gradients, for torch's tensors on a CPU.

   A head's queries are taken a few rows at a time: their logits, weights and output stay in the cache, and only two
   numbers of each softmax are kept, from which the backward pass makes the weights again (Dao 2023,
   https://arxiv.org/abs/2307.08691). Every product is one loop, `multiply`, for which keys and values are packed.
   Compiled with cpu_kernels.c. Trees of the forest, and groups of heads that read the same keys, are independent: a
   result does not depend on the number of threads. */

#include "cpu_numbers.h"

/* For other processors nothing below is compiled, and torch's products are taken: where vectors are shorter they are
   many times faster; with matrix units (AMX) they use these. */
#if defined(NUMBER_IS_BF16) && defined(__AVX512BF16__) && !defined(__AMX_BF16__)
#include <immintrin.h>
#define PAIR 2
typedef uint32_t word __attribute__((may_alias)); /* two numbers, multiplied and added up at once */
#elif !defined(NUMBER_IS_BF16) && defined(__AVX512F__)
#define PAIR 1
typedef float word;
#endif

#ifdef PAIR

#define ROWS 8   /* of a product at a time: with two vectors each enough sums to keep the processor busy */
#define BLOCK 32 /* queries whose gradients of keys and values are one product */

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

typedef struct {
    int64_t start, end, tile; /* tokens, and the first of its tiles: LANES tokens each, the last one filled up */
} segment;

typedef struct {
    int64_t segment, first, queries; /* whose queries are asked for, and where they are among all of them */
    int64_t seen;                    /* keys of the segment that the first query sees */
    int64_t above, below, before;    /* its ancestors' places in `ancestors`, and how many tiles these have */
} item;

/* What `attend` and `attend_backward` are called with. */
typedef struct {
    size heads, groups, tokens, width;
    size padded;  /* numbers of a head, with zeros up to a multiple of 2 * LANES */
    size tiles;   /* of all segments */
    size columns; /* keys that a query sees at most, in whole pairs of tiles */
    size count, segment_count, threads;
    double scale;
    const item *items;       /* (count,); those of a tree stand behind its root's */
    const segment *segments; /* (segment_count,) */
    const int64_t *ancestors;
    float *room;         /* (threads, attention_room) */
    const number *query; /* (heads, tokens, width) */
    const word *key_across, *key_along, *value_across, *value_along; /* as `pack_states` makes them */
    float *softmax;             /* (heads, tokens, 2): a query's largest logit, and one over the sum of its powers */
    number *out;                /* (tokens, heads, width) */
    const number *by_out;       /* (tokens, heads, width) */
    number *by_query;           /* (tokens, heads, width) */
    float *by_keys, *by_values; /* (groups, tiles * LANES, padded), which are added to */
    float *by_key, *by_value;   /* (groups, tokens of all segments, width) */
} call;

/* What a thread works in. */
typedef struct {
    size *order;                         /* (columns / LANES + 1,): tiles that are seen */
    float *logits, *slopes;              /* (ROWS, columns) */
    float *mixed;                        /* (ROWS, padded) */
    number *weights, *by_logits;         /* (ROWS, columns) */
    number *queries, *by_outs;           /* (BLOCK, padded) */
    word *weight_pairs, *by_logit_pairs; /* (BLOCK / PAIR, columns) */
    word *query_pairs, *by_out_pairs;    /* (BLOCK / PAIR, padded) */
} workspace;

/* Numbers in fp32 that it takes. */
size attention_room(size padded, size columns) {
    return ROWS * (4 * columns + padded) + BLOCK * (2 * columns + 4 * padded) + 2 * (columns / LANES + 1);
}

static workspace of_this_thread(const call *of) {
    workspace in = {.order = (size *)(of->room + omp_get_thread_num() * attention_room(of->padded, of->columns))};
    in.logits = (float *)(in.order + of->columns / LANES + 1);
    in.slopes = in.logits + ROWS * of->columns;
    in.mixed = in.slopes + ROWS * of->columns;
    in.weights = (number *)(in.mixed + ROWS * of->padded);
    in.by_logits = in.weights + ROWS * of->columns;
    in.queries = in.by_logits + ROWS * of->columns;
    in.by_outs = in.queries + BLOCK * of->padded;
    in.weight_pairs = (word *)(in.by_outs + BLOCK * of->padded);
    in.by_logit_pairs = in.weight_pairs + BLOCK / PAIR * of->columns;
    in.query_pairs = in.by_logit_pairs + BLOCK / PAIR * of->columns;
    in.by_out_pairs = in.query_pairs + BLOCK / PAIR * of->padded;
    return in;
}

static inline size least(size a, size b) { return a < b ? a : b; }
static inline size up_to(size multiple, size count) { return (count + multiple - 1) / multiple * multiple; }

static inline lanes multiplied(lanes sum, const word *left, const word *right) {
#if PAIR == 2
    __m512i twice = _mm512_set1_epi32((int)*left);
    return (lanes)_mm512_dpbf16_ps((__m512)sum, (__m512bh)twice, (__m512bh) * (const lanes *)right);
#else
    return sum + *left * *(const lanes *)right;
#endif
}

/* out (ROWS, 2 * LANES) += or = the product of left (ROWS, depth) and right (depth, 2 * LANES), in words: `first` and
   `second` are the halves of right. Rows and words of depth are so far apart as said. */
static inline __attribute__((always_inline)) void multiply(int add, size depth, const word *left, size left_row,
                                                           size left_deep, const word *first, const word *second,
                                                           size right_deep, float *out, size out_row) {
    lanes sums[ROWS][2] = {0};
    for (size deep = 0; deep < depth; deep++) {
#pragma GCC unroll 8
        for (int row = 0; row < ROWS; row++) {
            const word *one = left + row * left_row + deep * left_deep;
            sums[row][0] = multiplied(sums[row][0], one, first + deep * right_deep);
            sums[row][1] = multiplied(sums[row][1], one, second + deep * right_deep);
        }
    }
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; row++) {
        lanes *into = (lanes *)(out + row * out_row);
        if (add) sums[row][0] += into[0], sums[row][1] += into[1]; /* last: so sums of many rows round less */
        into[0] = sums[row][0], into[1] = sums[row][1];
    }
}

/* `rows` of `width` numbers as `all` of `padded`, zeros in what is new. */
static void copied(size rows, size all, size width, size padded, const number *x, size x_row, number *out) {
    if (rows < all || width < padded) memset(out, 0, (size_t)(all * padded) * sizeof *out);
    for (size row = 0; row < rows; row++) memcpy(out + row * padded, x + row * x_row, (size_t)width * sizeof *x);
}

/* The numbers of a column in PAIR rows as one word. */
static void paired(size rows, size width, const number *x, size x_row, word *out, size out_row) {
    for (size row = 0; row < rows; row += PAIR) {
        const number *in = x + row * x_row;
        word *into = out + row / PAIR * out_row;
#if PAIR == 2
        for (size i = 0; i < width; i++) into[i] = in[i] | (word)in[x_row + i] << 16;
#else
        memcpy(into, in, (size_t)width * sizeof *in);
#endif
    }
}

/* A forest's keys or values x (groups, tokens, width), of its segments `needed`, as words in tiles: `across` (groups,
   tiles, padded / PAIR, LANES) for products along the width, `along` (groups, tiles, LANES / PAIR, padded) for those
   along the tokens. What is not asked for is NULL. */
void pack_states(size groups, size tokens, size width, size padded, size tiles, size count, const int64_t *needed,
                 const segment *segments, const number *x, word *across, word *along) {
#pragma omp parallel for collapse(2)
    for (size group = 0; group < groups; group++) {
        for (size index = 0; index < count; index++) {
            const segment *of = segments + needed[index];
            for (size start = of->start, tile = of->tile; start < of->end; start += LANES, tile++) {
                number rows[LANES * padded];
                word words[padded / PAIR];
                size place = (group * tiles + tile) * LANES * (padded / PAIR);
                const number *from = x + (group * tokens + start) * width;
                copied(least(LANES, of->end - start), LANES, width, padded, from, width, rows);
                if (along != NULL) paired(LANES, padded, rows, padded, along + place, padded);
                for (size token = 0; token < (across == NULL ? 0 : LANES); token++) {
                    memcpy(words, rows + token * padded, sizeof words);
                    for (size i = 0; i < padded / PAIR; i++) across[place + i * LANES + token] = words[i];
                }
            }
        }
    }
}

/* The tiles that a query sees which sees `own` keys of its segment, in `order`: the ancestors', then the segment's. The
   last one stands there twice, since logits are made of two tiles at a time. */
static size tiles_seen(const call *of, const item *its, size own, size *order) {
    size count = 0;
    for (size index = its->above; index < its->below; index++) {
        const segment *above = of->segments + of->ancestors[index];
        for (size token = above->start, tile = above->tile; token < above->end; token += LANES) order[count++] = tile++;
    }
    for (size token = 0, tile = of->segments[its->segment].tile; token < own; token += LANES) order[count++] = tile++;
    order[count] = order[count - 1];
    return count;
}

/* Minus infinity for what is in those tiles and not seen: what fills them up, and the segment's keys from `own` on. */
static void hide(const call *of, const item *its, size own, size columns, float *logits) {
    size column = 0;
    for (size index = its->above; index < its->below; index++) {
        const segment *above = of->segments + of->ancestors[index];
        size end = column + up_to(LANES, above->end - above->start);
        for (size i = column + above->end - above->start; i < end; i++) logits[i] = -INFINITY;
        column = end;
    }
    for (size i = column + own; i < columns; i++) logits[i] = -INFINITY;
}

/* out (ROWS, columns) = left (ROWS, padded) · the packed rows of `count` tiles. */
static void along_width(const call *of, size count, const size *order, const number *left, const word *across,
                        float *out) {
    size depth = of->padded / PAIR;
    for (size tile = 0; tile < count; tile += 2) {
        const word *first = across + order[tile] * depth * LANES, *second = across + order[tile + 1] * depth * LANES;
        multiply(0, depth, (const word *)left, depth, 1, first, second, LANES, out + tile * LANES, of->columns);
    }
}

/* out (ROWS, padded) = left (ROWS, columns) · the packed rows of `count` tiles. */
static void along_tokens(const call *of, size count, const size *order, const number *left, const word *along,
                         float *out) {
    memset(out, 0, (size_t)(ROWS * of->padded) * sizeof *out);
    for (size tile = 0, next; tile < count; tile = next) {
        for (next = tile + 1; next < count && order[next] == order[next - 1] + 1;) next++; /* they are one product */
        const word *from = (const word *)left + tile * (LANES / PAIR);
        const word *right = along + order[tile] * (LANES / PAIR) * of->padded;
        for (size at = 0; at < of->padded; at += 2 * LANES)
            multiply(1, (next - tile) * (LANES / PAIR), from, of->columns / PAIR, 1, right + at, right + at + LANES,
                     of->padded, out + at, of->padded);
    }
}

/* Add left (queries, columns) transposed · right (queries, padded), both in pairs, to the rows of `count` tiles. */
static void along_queries(const call *of, size count, const size *order, size queries, const word *left,
                          const word *right, float *out) {
    for (size tile = 0; tile < count; tile++)
        for (size row = 0; row < LANES; row += ROWS)
            for (size at = 0; at < of->padded; at += 2 * LANES)
                multiply(1, queries / PAIR, left + tile * LANES + row, 1, of->columns, right + at, right + at + LANES,
                         of->padded, out + (order[tile] * LANES + row) * of->padded + at, of->padded);
}

/* e^x for x <= 0; nothing where that is as good as nothing. What is no number stays so. */
static inline float power(float x) {
    float some = exponential_within(x < -87.0f ? -87.0f : x);
    return x < -87.0f ? 0.0f : some;
}

static inline float total(lanes sums) {
    float parts[LANES];
    memcpy(parts, &sums, sizeof parts);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) parts[i] += parts[i + half];
    return parts[0];
}

static void rounded(size width, const float *x, float share, number *out) {
#pragma omp simd
    for (size i = 0; i < width; i++) out[i] = narrow(x[i] * share);
}

/* ROWS queries of an item, or the rest, from `start` on. */
static void attend_rows(const call *of, const item *its, size head, size start, const workspace *in) {
    size rows = least(ROWS, its->queries - start), first = its->first + start, own = its->seen + start;
    size seen = tiles_seen(of, its, own + rows - 1, in->order), columns = up_to(2, seen) * LANES;
    size group = head / (of->heads / of->groups) * of->tiles * LANES * (of->padded / PAIR);
    float scale = (float)of->scale, shares[ROWS];
    copied(rows, ROWS, of->width, of->padded, of->query + (head * of->tokens + first) * of->width, of->width,
           in->queries);
    along_width(of, seen, in->order, in->queries, of->key_across + group, in->logits);
    for (size row = 0; row < ROWS; row++) {
        float *logits = in->logits + row * of->columns, largest = -INFINITY;
        number *weights = in->weights + row * of->columns;
        lanes sum = {0};
        hide(of, its, own + least(row, rows - 1), columns, logits);
#pragma omp simd reduction(max : largest)
        for (size i = 0; i < columns; i++) largest = logits[i] > largest ? logits[i] : largest;
#pragma omp simd
        for (size i = 0; i < columns; i++) {
            logits[i] = power((logits[i] - largest) * scale);
            weights[i] = narrow(logits[i]);
        }
        for (size i = 0; i < columns; i += LANES) sum += *(lanes *)(logits + i);
        shares[row] = 1.0f / total(sum);
        if (row < rows) {
            float *softmax = of->softmax + 2 * (head * of->tokens + first + row);
            softmax[0] = largest, softmax[1] = shares[row];
        }
    }
    along_tokens(of, seen, in->order, in->weights, of->value_along + group, in->mixed);
    for (size row = 0; row < rows; row++)
        rounded(of->width, in->mixed + row * of->padded, shares[row],
                of->out + ((first + row) * of->heads + head) * of->width);
}

/* softmax(scale * query · key) value. */
void attend(const call *of) {
#pragma omp parallel num_threads((int)of->threads)
    {
        workspace in = of_this_thread(of);
#pragma omp for collapse(2) schedule(dynamic)
        for (size index = 0; index < of->count; index++) {
            for (size head = 0; head < of->heads; head++) {
                const item *its = of->items + index;
                for (size start = 0; start < its->queries; start += ROWS) attend_rows(of, its, head, start, &in);
            }
        }
    }
}

/* The gradients of ROWS queries of an item, or of the rest, from `start` on; the weights and their logits' gradients are
   left in pairs, as many columns as the `tiles` that the block sees. */
static void rows_backward(const call *of, const item *its, size head, size start, size tiles, const workspace *in) {
    size rows = least(ROWS, its->queries - start), first = its->first + start, own = its->seen + start;
    size seen = its->before + up_to(LANES, own + rows - 1) / LANES, columns = up_to(2, seen) * LANES;
    size group = head / (of->heads / of->groups) * of->tiles * LANES * (of->padded / PAIR), row = start % BLOCK;
    float scale = (float)of->scale;
    along_width(of, seen, in->order, in->queries + row * of->padded, of->key_across + group, in->logits);
    along_width(of, seen, in->order, in->by_outs + row * of->padded, of->value_across + group, in->slopes);
    for (size at = 0; at < ROWS; at++) {
        float *powers = in->logits + at * of->columns, *slopes = in->slopes + at * of->columns;
        number *weights = in->weights + at * of->columns, *by_logits = in->by_logits + at * of->columns;
        size written = at < rows ? columns : 0;
        if (written) {
            const float *softmax = of->softmax + 2 * (head * of->tokens + first + at);
            float largest = softmax[0], share = softmax[1];
            lanes along = {0};
            hide(of, its, own + at, columns, powers);
#pragma omp simd
            for (size i = 0; i < columns; i++) powers[i] = power((powers[i] - largest) * scale) * share;
            for (size i = 0; i < columns; i += LANES) along += *(lanes *)(powers + i) * *(lanes *)(slopes + i);
            float mean = total(along);
#pragma omp simd
            for (size i = 0; i < columns; i++) {
                weights[i] = narrow(powers[i]);
                by_logits[i] = narrow((slopes[i] - mean) * powers[i] * scale);
            }
        }
        for (size i = written; i < tiles * LANES; i++) weights[i] = by_logits[i] = 0;
    }
    size pair = row / PAIR * of->columns;
    paired(ROWS, tiles * LANES, in->weights, of->columns, in->weight_pairs + pair, of->columns);
    paired(ROWS, tiles * LANES, in->by_logits, of->columns, in->by_logit_pairs + pair, of->columns);
    along_tokens(of, seen, in->order, in->by_logits, of->key_along + group, in->mixed);
    for (size at = 0; at < rows; at++)
        rounded(of->width, in->mixed + at * of->padded, 1.0f,
                of->by_query + ((first + at) * of->heads + head) * of->width);
}

/* The gradients of BLOCK queries of an item, or of the rest, from `start` on, and what they give to keys and values. */
static void block_backward(const call *of, const item *its, size head, size start, const workspace *in) {
    size queries = least(BLOCK, its->queries - start), whole = up_to(ROWS, queries), first = its->first + start;
    size seen = tiles_seen(of, its, its->seen + start + queries - 1, in->order);
    size group = head / (of->heads / of->groups) * of->tiles * LANES * of->padded;
    copied(queries, whole, of->width, of->padded, of->query + (head * of->tokens + first) * of->width, of->width,
           in->queries);
    copied(queries, whole, of->width, of->padded, of->by_out + (first * of->heads + head) * of->width,
           of->heads * of->width, in->by_outs);
    paired(whole, of->padded, in->queries, of->padded, in->query_pairs, of->padded);
    paired(whole, of->padded, in->by_outs, of->padded, in->by_out_pairs, of->padded);
    for (size row = 0; row < whole; row += ROWS) rows_backward(of, its, head, start + row, seen, in);
    along_queries(of, seen, in->order, whole, in->by_logit_pairs, in->query_pairs, of->by_keys + group);
    along_queries(of, seen, in->order, whole, in->weight_pairs, in->by_out_pairs, of->by_values + group);
}

static int is_root(const call *of, size index) { return index == 0 || of->items[index].above == of->items[index].below; }

/* A group's gradients of keys or values, token by token. */
static void unpack(const call *of, size group, const float *tiles, float *out) {
    const segment *last = of->segments + of->segment_count - 1;
    for (const segment *one = of->segments; one <= last; one++)
        for (size token = one->start; token < one->end; token++)
            memcpy(out + (group * last->end + token) * of->width,
                   tiles + ((group * of->tiles + one->tile) * LANES + token - one->start) * of->padded,
                   (size_t)of->width * sizeof *out);
}

/* Its gradients; a tree's are one thread's for each group of heads, since its segments add to the same keys'. */
void attend_backward(const call *of) {
    size each = of->heads / of->groups;
#pragma omp parallel num_threads((int)of->threads)
    {
        workspace in = of_this_thread(of);
#pragma omp for collapse(2) schedule(dynamic)
        for (size root = 0; root < of->count; root++) {
            for (size group = 0; group < of->groups; group++) {
                for (size index = root; is_root(of, root) && index < of->count; index++) {
                    if (index > root && is_root(of, index)) break;
                    const item *its = of->items + index;
                    for (size head = group * each; head < (group + 1) * each; head++)
                        for (size start = 0; start < its->queries; start += BLOCK)
                            block_backward(of, its, head, start, &in);
                }
            }
        }
#pragma omp for
        for (size group = 0; group < of->groups; group++) {
            unpack(of, group, of->by_keys, of->by_key);
            unpack(of, group, of->by_values, of->by_value);
        }
    }
}
#endif
