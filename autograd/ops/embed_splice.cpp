// Checks, index lists, dispatch and node of the spliced embedding.
#include "autograd/ops/embed_splice.h"

#include <algorithm>
#include <numeric>
#include <type_traits>

#include "autograd/ops/embed_splice_cpu.h"
#include "core/dispatch.h"

namespace matvlm {
namespace {

// token_of[m] = the token that feature row m went to, -1 for none. Where features get a gradient each row may go to one
// token only; without one, samples may share a picture.
std::vector<int32_t> checked_token_of(const std::vector<int32_t>& source, int64_t vocabulary, int64_t features,
                                      bool unique) {
  std::vector<int32_t> token_of(static_cast<size_t>(features), -1);
  for (size_t t = 0; t < source.size(); ++t) {
    const int64_t s = source[t];
    if (s >= 0) {
      check(s < vocabulary, "[embed_splice] token ", t, ": found id ", s, ", expected less than ", vocabulary);
      continue;
    }
    const int64_t m = -1 - s;
    check(m < features, "[embed_splice] token ", t, ": found feature row ", m, ", expected less than ", features);
    int32_t& token = token_of[static_cast<size_t>(m)];
    check(token < 0 || !unique, "[embed_splice] feature row ", m, " is used by tokens ", token, " and ", t);
    token = static_cast<int32_t>(t);
  }
  return token_of;
}

// Tokens grouped by vocabulary row: see EmbedSpliceTableGrad.
struct TokenGroups {
  std::vector<int32_t> ids, begin, order;
};

TokenGroups group_tokens(const std::vector<int32_t>& source) {
  TokenGroups groups;
  for (size_t t = 0; t < source.size(); ++t) {
    if (source[t] >= 0) groups.order.push_back(static_cast<int32_t>(t));
  }
  std::stable_sort(groups.order.begin(), groups.order.end(), [&](int32_t a, int32_t b) {
    return source[static_cast<size_t>(a)] < source[static_cast<size_t>(b)];
  });
  for (size_t i = 0; i < groups.order.size(); ++i) {
    const int32_t id = source[static_cast<size_t>(groups.order[i])];
    if (!groups.ids.empty() && groups.ids.back() == id) continue;
    groups.ids.push_back(id);
    groups.begin.push_back(static_cast<int32_t>(i));
  }
  groups.ids.resize(source.size(), 0);
  groups.begin.resize(source.size() + 1, static_cast<int32_t>(groups.order.size()));
  groups.order.resize(source.size(), 0);
  return groups;
}

template <class T>
constexpr bool kOnCpu = std::is_same_v<T, float>;

[[noreturn]] void no_bf16() { fail("[embed_splice] bf16 is for the GPU only"); }

void forward(Context& ctx, const Tensor& table, const Tensor& features, const SpliceIndex& index, const Tensor& y) {
  dispatch_float("embed_splice", table.dtype(), [&](auto type) {
    using T = decltype(type);
    const EmbedSpliceForward<T> args = {.tokens = y.dim(0),
                                        .width = y.cols(),
                                        .table = table.data<T>(),
                                        .features = features.defined() ? features.data<T>() : nullptr,
                                        .features_stride = features.row_stride(),
                                        .source = index.source.data<int32_t>(),
                                        .y = y.data<T>()};
    const auto on_cpu = [&] {
      if constexpr (kOnCpu<T>) return embed_splice_forward_cpu(args);
      no_bf16();
    };
    dispatch_device(
        ctx, [&] { embed_splice_forward_cuda(ctx, args); }, on_cpu);
  });
}

void feature_grad(Context& ctx, const Tensor& dy, const SpliceIndex& index, const Graph::GradSlot& slot) {
  dispatch_float("embed_splice", dy.dtype(), [&](auto type) {
    using T = decltype(type);
    const EmbedSpliceFeatureGrad<T> args = {.features = slot.tensor.dim(0),
                                            .width = dy.cols(),
                                            .dy = dy.data<T>(),
                                            .dy_stride = dy.row_stride(),
                                            .token_of = index.token_of.data<int32_t>(),
                                            .dfeatures = slot.tensor.data<T>(),
                                            .dfeatures_stride = slot.tensor.row_stride(),
                                            .accumulate = slot.accumulate};
    const auto on_cpu = [&] {
      if constexpr (kOnCpu<T>) return embed_splice_feature_grad_cpu(args);
      no_bf16();
    };
    dispatch_device(
        ctx, [&] { embed_splice_feature_grad_cuda(ctx, args); }, on_cpu);
  });
}

void table_grad(Context& ctx, const Tensor& dy, const SpliceIndex& index, const Tensor& dtable) {
  dispatch_float("embed_splice", dy.dtype(), [&](auto type) {
    using T = decltype(type);
    const EmbedSpliceTableGrad<T, float> args = {.unique = index.tokens,
                                                 .width = dy.cols(),
                                                 .dy = dy.data<T>(),
                                                 .dy_stride = dy.row_stride(),
                                                 .ids = index.ids.data<int32_t>(),
                                                 .begin = index.begin.data<int32_t>(),
                                                 .order = index.order.data<int32_t>(),
                                                 .dtable = dtable.data<float>()};
    const auto on_cpu = [&] {
      if constexpr (kOnCpu<T>) return embed_splice_table_grad_cpu(args);
      no_bf16();
    };
    dispatch_device(
        ctx, [&] { embed_splice_table_grad_cuda(ctx, args); }, on_cpu);
  });
}

}  // namespace

void make_splice_index(UploadBatch& uploads, const std::vector<int32_t>& source, int64_t vocabulary, int64_t features,
                       bool feature_grad, bool table_grad, SpliceIndex& index) {
  const std::vector<int32_t> token_of = checked_token_of(source, vocabulary, features, feature_grad);
  index.tokens = static_cast<int64_t>(source.size());
  index.vocabulary = vocabulary;
  index.features = features;
  uploads.add(source, &index.source);
  if (feature_grad) uploads.add(token_of, &index.token_of);
  if (!table_grad) return;
  const TokenGroups groups = group_tokens(source);
  uploads.add(groups.ids, &index.ids);
  uploads.add(groups.begin, &index.begin);
  uploads.add(groups.order, &index.order);
}

Var embed_splice(Graph& g, const Weight& table, const Var& features, const std::vector<int32_t>& source) {
  check(table.value.rank() == 2, "[embed_splice] table: found ", shape_string(table.value.shape()),
        ", expected [V, D]");
  const int64_t rows = features.defined() ? features.value().dim(0) : 0;
  UploadBatch uploads;
  SpliceIndex index;
  make_splice_index(uploads, source, table.value.dim(0), rows, features.requires_grad(),
                    g.recording() && table.trainable(), index);
  uploads.send(g.ctx());
  return embed_splice(g, table, features, index);
}

Var embed_splice(Graph& g, const Weight& table, const Var& features, const SpliceIndex& index) {
  check(table.value.rank() == 2 && table.value.contiguous(), "[embed_splice] table: found ",
        shape_string(table.value.shape()), ", expected [V, D], contiguous");
  const int64_t width = table.value.cols();
  Tensor feature_rows;
  if (features.defined()) {
    feature_rows = features.value();
    check(feature_rows.rank() == 2 && feature_rows.cols() == width, "[embed_splice] features: found ",
          shape_string(feature_rows.shape()), ", expected [M, ", width, "]");
    check_dtype("embed_splice", "features", feature_rows, table.value.dtype());
  }
  const int64_t count = feature_rows.defined() ? feature_rows.dim(0) : 0;
  check(table.value.dim(0) == index.vocabulary && count == index.features, "[embed_splice] found ", table.value.dim(0),
        " table rows and ", count, " feature rows, expected ", index.vocabulary, " and ", index.features);
  check(!features.requires_grad() || index.token_of.defined(), "[embed_splice] features need a gradient without lists");
  check(!g.recording() || !table.trainable() || index.ids.defined(),
        "[embed_splice] the table needs a gradient without lists");
  Tensor y = Tensor::empty(g.ctx(), {index.tokens, width}, table.value.dtype());
  forward(g.ctx(), table.value, feature_rows, index, y);
  return g.node(y, {features}, {table}, [table, features = features.route(), index](Graph& graph, const Tensor& dy) {
    if (features.requires_grad()) feature_grad(graph.ctx(), dy, index, graph.grad_slot(features));
    if (grad_to_add(graph.ctx(), table) != nullptr) table_grad(graph.ctx(), dy, index, table.param->grad);
  });
}

}  // namespace matvlm
