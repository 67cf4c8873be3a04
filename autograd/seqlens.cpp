#include "autograd/seqlens.h"

#include <algorithm>
#include <utility>

namespace matvlm {

SeqlensPtr make_seqlens(Context& ctx, std::vector<int64_t> cu) {
  check(!cu.empty() && cu.front() == 0, "[seqlens] boundaries must start at 0");
  auto s = std::make_shared<Seqlens>();
  for (size_t i = 1; i < cu.size(); ++i) {
    check(cu[i] >= cu[i - 1], "[seqlens] boundary ", i, ": found ", cu[i], " after ", cu[i - 1]);
    s->longest = std::max(s->longest, cu[i] - cu[i - 1]);
  }
  s->device_cu = Tensor::from(ctx, cu, {static_cast<int64_t>(cu.size())});
  s->cu = std::move(cu);
  return s;
}

}  // namespace matvlm
