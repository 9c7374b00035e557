// RMSNorm, and rotary position embedding with the write of keys and values into the cache.
#pragma once

#include "../cpu/simd.h"

// out = x / sqrt(mean(x²) + eps) · weight; out may be x.
INLINE void rms_norm(const float* x, const float* weight, int64_t size, float eps, float* out) {
  vf sum = {};
  int64_t i = 0;
  for (; i + W <= size; i += W) sum = fma(load(x + i), load(x + i), sum);
  float total = sum_lanes(sum);
  for (; i < size; i++) total += x[i] * x[i];
  float factor = 1.0f / sqrtf(total / size + eps);
  for (i = 0; i + W <= size; i += W) store(out + i, load(x + i) * factor * load(weight + i));
  for (; i < size; i++) out[i] = x[i] * factor * weight[i];
}

// Turns the pairs (x_i, x_{i + size/2}) by the angles whose cosines and sines are given, [size/2] each. In place.
INLINE void rotate(float* x, const float* cosine, const float* sine, int64_t size) {
  for (int64_t i = 0; i < size / 2; i++) {
    float a = x[i], b = x[i + size / 2];
    x[i] = a * cosine[i] - b * sine[i];
    x[i + size / 2] = b * cosine[i] + a * sine[i];
  }
}
