/* One decoding step of a small model on a CPU: every layer for some rows, in one call.

   A model whose weights fit a CPU's caches spends a decoding step on starting operations, not on computing: about a
   hundred of them, for a few microseconds of work each. Here a thread takes a share of the rows through all layers.

   Weights come transposed, (in, out), with `out` padded by zeros to a multiple of PAD floats; the weights of the two
   norms are multiplied into the products that follow them, and so is the square root of the hidden size. Keys lie as
   (slot, head, D, T), so that scores are computed for many positions at a time; values as (slot, head, T, D).
   Nothing is shared between rows: a row's result does not depend on the rows beside it, to the last bit. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#define PAD 64   /* floats; every tile below divides it */
#define ROWS 6   /* rows of a tile: ROWS * WIDE vectors of sums stay in registers */
#define CHUNK 24 /* rows that share one pass over a layer's weights */

#if defined(__AVX512F__)
#define LANES 16
#define WIDE 4
#elif defined(__AVX__)
#define LANES 8
#define WIDE 2
#else
#define LANES 4
#define WIDE 4
#endif

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
#define INLINE static inline __attribute__((always_inline))

typedef struct {
    const float *qkv, *qkv_bias, *out, *out_bias, *gate_up, *gate_up_bias, *down, *down_bias;
    const float *query_norm, *key_norm; /* NULL where the family has none */
    float *keys, *values;
    int64_t window; /* 0: none */
} Layer;

typedef struct {
    const Layer *layers;
    const float *embedding, *norm, *head, *head_bias, *cosine, *sine;
    int64_t depth, hidden, hidden_padded, heads, kv_heads, head_dim, qkv_padded, inner, inner_padded;
    int64_t vocabulary, vocabulary_padded, length;
    float eps;
} Model;

INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec v) { *(vec *)p = v; }
INLINE vec all(float x) { return x - (vec){0}; }
INLINE vec larger(vec a, vec b) {
    ivec m = a > b;
    return (vec)((m & (ivec)a) | (~m & (ivec)b));
}

/* e^x to a few units in the last place: 2^n times a polynomial on [-ln2/2, ln2/2]. */
INLINE vec exponential(vec x) {
    x = larger(x, all(-87.0f));
    x = -larger(-x, all(-88.0f));
    vec shifted = x * 1.44269504f + 12582912.0f; /* adding 1.5 * 2^23 rounds to the nearest integer */
    vec n = shifted - 12582912.0f;
    vec r = x - n * 0.693145752f;
    r = r - n * 1.42860677e-6f;
    vec p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    ivec power = (((ivec)shifted - 0x4B400000) + 127) << 23;
    return p * (vec)power;
}

/* y (+)= x W + bias for `rows` rows; `rows` is a constant where this is inlined. */
INLINE void tile_product(const int rows, const float *x, int64_t x_step, const float *w, int64_t in, int64_t out,
                         const float *bias, float *y, int64_t y_step, const int add) {
    for (int64_t o = 0; o < out; o += LANES * WIDE) {
        vec sum[ROWS][WIDE];
        for (int r = 0; r < rows; r++)
            for (int j = 0; j < WIDE; j++) {
                sum[r][j] = bias ? load(bias + o + j * LANES) : all(0.0f);
                if (add) sum[r][j] += load(y + r * y_step + o + j * LANES);
            }
        const float *column = w + o;
        for (int64_t k = 0; k < in; k++, column += out)
            for (int r = 0; r < rows; r++)
                for (int j = 0; j < WIDE; j++) sum[r][j] += load(column + j * LANES) * x[r * x_step + k];
        for (int r = 0; r < rows; r++)
            for (int j = 0; j < WIDE; j++) store(y + r * y_step + o + j * LANES, sum[r][j]);
    }
}

INLINE void product(int rows, const float *x, int64_t x_step, const float *w, int64_t in, int64_t out,
                    const float *bias, float *y, int64_t y_step, const int add) {
    for (; rows >= ROWS; rows -= ROWS, x += ROWS * x_step, y += ROWS * y_step)
        tile_product(ROWS, x, x_step, w, in, out, bias, y, y_step, add);
    switch (rows) {
    case 5: tile_product(5, x, x_step, w, in, out, bias, y, y_step, add); break;
    case 4: tile_product(4, x, x_step, w, in, out, bias, y, y_step, add); break;
    case 3: tile_product(3, x, x_step, w, in, out, bias, y, y_step, add); break;
    case 2: tile_product(2, x, x_step, w, in, out, bias, y, y_step, add); break;
    case 1: tile_product(1, x, x_step, w, in, out, bias, y, y_step, add); break;
    }
}

static void write_product(int rows, const float *x, int64_t x_step, const float *w, int64_t in, int64_t out,
                          const float *bias, float *y, int64_t y_step) {
    product(rows, x, x_step, w, in, out, bias, y, y_step, 0);
}

static void add_product(int rows, const float *x, int64_t x_step, const float *w, int64_t in, int64_t out,
                        const float *bias, float *y, int64_t y_step) {
    product(rows, x, x_step, w, in, out, bias, y, y_step, 1);
}

/* y = x / sqrt(|x|^2 + floor) * weight; weight NULL: it is in the product that follows. */
static void normalise(const float *x, const float *weight, int64_t n, float floor, float scale, float *y) {
    float sum = 0.0f;
    for (int64_t i = 0; i < n; i++) sum += x[i] * x[i];
    float factor = scale / sqrtf(sum + floor);
    for (int64_t i = 0; i < n; i++) y[i] = weight ? x[i] * factor * weight[i] : x[i] * factor;
}

static void rotate(float *x, const float *cosine, const float *sine, int64_t half) {
    for (int64_t i = 0; i < half; i++) {
        float a = x[i], b = x[half + i];
        x[i] = a * cosine[i] - b * sine[i];
        x[half + i] = b * cosine[i] + a * sine[i];
    }
}

/* One head of one row: softmax(q K) V over positions first .. last. `scores` has room for `length` floats. */
INLINE void attend(const int64_t head_dim, const float *query, const float *keys, const float *values, int64_t length,
                   int64_t first, int64_t last, float *scores, float *out) {
    const float scale = 1.0f / sqrtf((float)head_dim);
    const int64_t begin = first / LANES * LANES;
    vec highest = all(-1e30f);
    for (int64_t t = begin; t <= last; t += LANES) {
        vec sum = all(0.0f);
        for (int64_t d = 0; d < head_dim; d++) sum += load(keys + d * length + t) * query[d];
        store(scores + t, sum * scale);
        for (int64_t i = t; i < t + LANES; i++)
            if (i < first || i > last) scores[i] = -1e30f;
        highest = larger(highest, load(scores + t));
    }
    float top = highest[0];
    for (int i = 1; i < LANES; i++) top = highest[i] > top ? highest[i] : top;
    vec total = all(0.0f);
    for (int64_t t = begin; t <= last; t += LANES) {
        vec p = exponential(load(scores + t) - top);
        for (int64_t i = t; i < t + LANES; i++)
            if (i < first || i > last) p[i - t] = 0.0f;
        store(scores + t, p);
        total += p;
    }
    float sum = 0.0f;
    for (int i = 0; i < LANES; i++) sum += total[i];
    for (int64_t d = 0; d < head_dim; d++) out[d] = 0.0f;
    for (int64_t t = first; t <= last; t++)
        for (int64_t d = 0; d < head_dim; d++) out[d] += scores[t] * values[t * head_dim + d];
    for (int64_t d = 0; d < head_dim; d++) out[d] /= sum;
}

static void attend_row(const Model *m, const Layer *layer, int64_t slot, int64_t position, const float *query,
                       float *scores, float *out) {
    const int64_t shared = m->heads / m->kv_heads, size = m->head_dim * m->length;
    const int64_t first = layer->window && position >= layer->window ? position - layer->window + 1 : 0;
    for (int64_t h = 0; h < m->heads; h++) {
        const int64_t place = (slot * m->kv_heads + h / shared) * size;
        const float *keys = layer->keys + place, *values = layer->values + place;
        const float *q = query + h * m->head_dim;
        float *o = out + h * m->head_dim;
        switch (m->head_dim) { /* constants let the compiler unroll */
        case 16: attend(16, q, keys, values, m->length, first, position, scores, o); break;
        case 32: attend(32, q, keys, values, m->length, first, position, scores, o); break;
        case 64: attend(64, q, keys, values, m->length, first, position, scores, o); break;
        default: attend(m->head_dim, q, keys, values, m->length, first, position, scores, o);
        }
    }
}

static void query_key_value(const Model *m, const Layer *layer, int64_t slot, int64_t position, float *qkv) {
    const int64_t head_dim = m->head_dim, half = head_dim / 2;
    const float *cosine = m->cosine + position * half, *sine = m->sine + position * half;
    for (int64_t h = 0; h < m->heads + m->kv_heads; h++) {
        const float *weight = h < m->heads ? layer->query_norm : layer->key_norm;
        float *x = qkv + h * head_dim;
        if (weight) normalise(x, weight, head_dim, head_dim * m->eps, sqrtf((float)head_dim), x);
        rotate(x, cosine, sine, half);
    }
    for (int64_t h = 0; h < m->kv_heads; h++) {
        const int64_t place = (slot * m->kv_heads + h) * head_dim * m->length;
        const float *key = qkv + (m->heads + h) * head_dim, *value = key + m->kv_heads * head_dim;
        for (int64_t d = 0; d < head_dim; d++) layer->keys[place + d * m->length + position] = key[d];
        memcpy(layer->values + place + position * head_dim, value, head_dim * sizeof(float));
    }
}

static void run_chunk(const Model *m, int rows, const int64_t *ids, const int64_t *positions, const int64_t *slots,
                      float *logits, float *work) {
    const int64_t hp = m->hidden_padded, qp = m->qkv_padded, ip = m->inner_padded, mixed = m->heads * m->head_dim;
    const float floor = m->hidden * m->eps;
    float *x = work, *normal = x + CHUNK * hp, *qkv = normal + CHUNK * hp, *out = qkv + CHUNK * qp;
    float *gate_up = out + CHUNK * mixed, *scores = gate_up + CHUNK * 2 * ip;
    for (int r = 0; r < rows; r++) {
        memset(x + r * hp, 0, hp * sizeof(float));
        memcpy(x + r * hp, m->embedding + ids[r] * m->hidden, m->hidden * sizeof(float));
    }
    for (int64_t l = 0; l < m->depth; l++) {
        const Layer *layer = m->layers + l;
        for (int r = 0; r < rows; r++) normalise(x + r * hp, 0, m->hidden, floor, 1.0f, normal + r * hp);
        write_product(rows, normal, hp, layer->qkv, m->hidden, qp, layer->qkv_bias, qkv, qp);
        for (int r = 0; r < rows; r++) {
            query_key_value(m, layer, slots[r], positions[r], qkv + r * qp);
            attend_row(m, layer, slots[r], positions[r], qkv + r * qp, scores, out + r * mixed);
        }
        add_product(rows, out, mixed, layer->out, mixed, hp, layer->out_bias, x, hp);
        for (int r = 0; r < rows; r++) normalise(x + r * hp, 0, m->hidden, floor, 1.0f, normal + r * hp);
        write_product(rows, normal, hp, layer->gate_up, m->hidden, 2 * ip, layer->gate_up_bias, gate_up, 2 * ip);
        for (int r = 0; r < rows; r++)
            for (float *g = gate_up + r * 2 * ip, *end = g + ip; g < end; g += LANES) {
                vec gate = load(g);
                store(g, gate / (1.0f + exponential(-gate)) * load(g + ip));
            }
        add_product(rows, gate_up, 2 * ip, layer->down, m->inner, hp, layer->down_bias, x, hp);
    }
    for (int r = 0; r < rows; r++)
        normalise(x + r * hp, m->norm, m->hidden, floor, sqrtf((float)m->hidden), normal + r * hp);
    if (logits)
        write_product(rows, normal, hp, m->head, m->hidden, m->vocabulary_padded, m->head_bias, logits,
                      m->vocabulary_padded);
}

/* Floats of scratch memory for each thread. */
int64_t dunwu_work(const Model *m) {
    return CHUNK * (2 * m->hidden_padded + m->qkv_padded + m->heads * m->head_dim + 2 * m->inner_padded) + m->length;
}

/* Each row's token goes into its slot at its position; logits (rows, vocabulary_padded), or NULL. */
void dunwu_step(const Model *m, int64_t rows, const int64_t *ids, const int64_t *positions, const int64_t *slots,
                float *logits, float *work, int64_t threads) {
    const int64_t share = (rows + threads - 1) / threads, size = dunwu_work(m);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int64_t thread = 0; thread < threads; thread++) {
        const int64_t end = (thread + 1) * share < rows ? (thread + 1) * share : rows;
        for (int64_t start = thread * share; start < end; start += CHUNK) {
            const int count = (int)(end - start < CHUNK ? end - start : CHUNK);
            run_chunk(m, count, ids + start, positions + start, slots + start,
                      logits ? logits + start * m->vocabulary_padded : 0, work + thread * size);
        }
    }
}
