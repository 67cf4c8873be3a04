// What the bandwidth-bound kernels of the mixer share: neighbouring elements that a thread moves with one access and
// computes with in float32, and a sigmoid.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

#include "autograd/ops/mma.cuh"
#include "core/dtype.h"

namespace matvlm {

// V neighbouring elements of float or bf16, 16 bytes at most, as they lie in device memory, at an address that is a
// multiple of their size.
template <class E, int V>
struct Pack {
  static constexpr int kBytes = static_cast<int>(sizeof(E)) * V;
  static_assert(kBytes == 2 || kBytes == 4 || kBytes == 8 || kBytes == 16);
  struct Words {
    unsigned w[kBytes >= 4 ? kBytes / 4 : 1];
  };
  using Raw = std::conditional_t<
      kBytes == 16, uint4,
      std::conditional_t<kBytes == 8, uint2, std::conditional_t<kBytes == 4, unsigned, unsigned short>>>;
  Raw raw;

  static __device__ Pack load(const E* p) { return {*reinterpret_cast<const Raw*>(p)}; }
  // Zeros when !valid; nothing is read then.
  static __device__ Pack load_if(bool valid, const E* p) { return valid ? load(p) : Pack{}; }
  // Starts a copy of one pack into shared memory; zeros when !valid (nothing is read then). 4 bytes at least.
  static __device__ void copy_async(Pack* to, const E* from, bool valid) {
    const unsigned address = mma::shared_address(to);
    if constexpr (kBytes == 16) {
      mma::copy_async_16(address, from, valid);
    } else if constexpr (kBytes == 8) {
      asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(address), "l"(from), "r"(valid ? 8 : 0)
                   : "memory");
    } else {
      static_assert(kBytes == 4);
      mma::copy_async_4(address, from, valid);
    }
  }
  // One access; a plain assignment may become one for each word.
  __device__ void store(E* p) const {
    if constexpr (kBytes == 16) {
      asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(p), "r"(raw.x), "r"(raw.y), "r"(raw.z), "r"(raw.w)
                   : "memory");
    } else if constexpr (kBytes == 8) {
      asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(p), "r"(raw.x), "r"(raw.y) : "memory");
    } else {
      *reinterpret_cast<Raw*>(p) = raw;
    }
  }

  __device__ void unpack(float (&x)[V]) const {
    if constexpr (kBytes == 2) {
      x[0] = mma::low_half(raw);
    } else {
      const auto words = std::bit_cast<Words>(raw);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        if constexpr (std::is_same_v<E, float>) {
          x[i] = __uint_as_float(words.w[i]);
        } else {
          x[i] = i % 2 == 0 ? mma::low_half(words.w[i / 2]) : mma::high_half(words.w[i / 2]);
        }
      }
    }
  }
  static __device__ Pack pack(const float (&x)[V]) {
    if constexpr (kBytes == 2) {
      return {static_cast<unsigned short>(mma::pack(x[0], 0.0F))};
    } else {
      Words words;
#pragma unroll
      for (int i = 0; i < kBytes / 4; ++i) {
        if constexpr (std::is_same_v<E, float>) {
          words.w[i] = __float_as_uint(x[i]);
        } else {
          words.w[i] = mma::pack(x[2 * i], x[2 * i + 1]);
        }
      }
      return {raw_of(words)};
    }
  }
  static __device__ Raw raw_of(const Words& words) {
    if constexpr (kBytes == 16) {
      return make_uint4(words.w[0], words.w[1], words.w[2], words.w[3]);
    } else if constexpr (kBytes == 8) {
      return make_uint2(words.w[0], words.w[1]);
    } else {
      return words.w[0];
    }
  }
  // Writes a gradient, or adds it to what is there.
  static __device__ void store_or_add(E* p, float (&x)[V], bool accumulate) {
    if (accumulate) {
      float held[V];
      load(p).unpack(held);
#pragma unroll
      for (int i = 0; i < V; ++i) x[i] += held[i];
    }
    pack(x).store(p);
  }
};

// Ties values that are used many times to their registers. Without it the compiler keeps them as bf16 and converts them
// at every use, which costs more instructions than the arithmetic.
template <int V>
__device__ inline void keep(float (&x)[V]) {
#pragma unroll
  for (int i = 0; i < V; ++i) asm("" : "+f"(x[i]));
}

// Elements of a 16-byte access.
template <class E>
inline constexpr int kPackWidth = 16 / static_cast<int>(sizeof(E));

// Whether every row of an operand can be read V elements at a time. Null is: it is not read.
template <class E>
bool rows_aligned(const E* data, int64_t row_stride, int V) {
  return data == nullptr ||
         (reinterpret_cast<uintptr_t>(data) % (sizeof(E) * static_cast<size_t>(V)) == 0 && row_stride % V == 0);
}

// 1 / (1 + e^-x), to float32's precision when E is float and far below bf16's rounding when it is bf16.
template <class E>
__device__ inline float sigmoid_for(float x) {
  constexpr float kLog2E = 1.44269504F;
  const float e = std::is_same_v<E, float> ? expf(-x) : mma::exp2_approx(x * -kLog2E);
  float reciprocal;  // within 1 ulp; 0 from 2^126 on
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(1.0F + e));
  return reciprocal;
}

}  // namespace matvlm
