// Token embedding with image features spliced in: rows of a table where tokens are, rows of the features where the
// image is.
//   T tokens, V vocabulary, D width, M feature rows
#pragma once

#include <cstdint>
#include <vector>

#include "autograd/graph.h"
#include "core/upload_batch.h"

namespace matvlm {

// Where the rows come from, checked on the host and sent to the device.
struct SpliceIndex {
  int64_t tokens = 0, vocabulary = 0, features = 0;
  Tensor source;    // i32 [T]
  Tensor token_of;  // i32 [M]: token that a feature row went to, -1 for none; where features get a gradient
  // Tokens by table row, see EmbedSpliceTableGrad; where the table gets a gradient. The groups behind the last one are
  // empty, so that all sizes are those of T.
  Tensor ids, begin, order;  // i32 [T], [T + 1], [T]
};
// Fills `index` when the uploads are sent. Errors: see embed_splice.
void make_splice_index(UploadBatch& uploads, const std::vector<int32_t>& source, int64_t vocabulary, int64_t features,
                       bool feature_grad, bool table_grad, SpliceIndex& index);

// y [T, D]: row t is table[source[t]] where source[t] >= 0, else features[-1 - source[t]]. table [V, D]; features
// [M, D] of its dtype (may be a column view) or undefined. A feature row that gets a gradient is used at most once; the
// gradient of unused ones is 0. Error when a source is out of range or a feature row is used twice.
Var embed_splice(Graph& g, const Weight& table, const Var& features, const std::vector<int32_t>& source);
// With lists that are on the device already. Error where they lack what a gradient needs.
Var embed_splice(Graph& g, const Weight& table, const Var& features, const SpliceIndex& index);

template <class T>
struct EmbedSpliceForward {
  int64_t tokens = 0, width = 0;
  const T* table = nullptr;     // [V, D], contiguous
  const T* features = nullptr;  // [M, D]
  int64_t features_stride = 0;
  const int32_t* source = nullptr;  // [T]
  T* y = nullptr;                   // [T, D], contiguous
};

// Every feature row is written: the gradient of its token, or 0 (with accumulate: left alone).
template <class T>
struct EmbedSpliceFeatureGrad {
  int64_t features = 0, width = 0;
  const T* dy = nullptr;  // [T, D]
  int64_t dy_stride = 0;
  const int32_t* token_of = nullptr;  // [M], -1 for unused rows
  T* dfeatures = nullptr;             // [M, D]
  int64_t dfeatures_stride = 0;
  bool accumulate = false;
};

// The tokens of vocabulary row ids[u] are order[begin[u]] .. order[begin[u + 1]], increasing, and are summed in that
// order.
template <class T, class S>
struct EmbedSpliceTableGrad {
  int64_t unique = 0, width = 0;  // unique: U, groups without tokens included
  const T* dy = nullptr;          // [T, D]
  int64_t dy_stride = 0;
  const int32_t* ids = nullptr;    // [U]
  const int32_t* begin = nullptr;  // [U + 1]
  const int32_t* order = nullptr;
  S* dtable = nullptr;  // [V, D], contiguous, added to
};

// embed_splice.cu, for float and bf16; embed_splice_no_cuda.cpp throws.
template <class T>
void embed_splice_forward_cuda(Context& ctx, const EmbedSpliceForward<T>& args);
template <class T>
void embed_splice_feature_grad_cuda(Context& ctx, const EmbedSpliceFeatureGrad<T>& args);
template <class T>
void embed_splice_table_grad_cuda(Context& ctx, const EmbedSpliceTableGrad<T, float>& args);

}  // namespace matvlm
