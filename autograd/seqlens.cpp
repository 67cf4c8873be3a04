#include "autograd/seqlens.h"

#include <algorithm>
#include <utility>

namespace matvlm {

SeqlensPtr make_seqlens(Context& ctx, std::vector<int64_t> cu) {
  UploadBatch uploads;
  SeqlensPtr lens = make_seqlens(uploads, std::move(cu));
  uploads.send(ctx);
  return lens;
}

SeqlensPtr make_seqlens(UploadBatch& uploads, std::vector<int64_t> cu) {
  check(!cu.empty() && cu.front() == 0, "[seqlens] boundaries must start at 0");
  auto s = std::make_shared<Seqlens>();
  for (size_t i = 1; i < cu.size(); ++i) {
    check(cu[i] >= cu[i - 1], "[seqlens] boundary ", i, ": found ", cu[i], " after ", cu[i - 1]);
    s->longest = std::max(s->longest, cu[i] - cu[i - 1]);
  }
  uploads.add(cu, &s->device_cu);
  s->cu = std::move(cu);
  return s;
}

}  // namespace matvlm
