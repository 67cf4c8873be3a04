// Argument checks of all communicators, and what is built on the collectives.
#include "core/comm.h"

#include "core/error.h"

namespace matvlm {

void Comm::check_sizes(const char* name, int64_t own, int64_t all) const {
  check(all == own * size_, "[comm] ", name, ": found ", own, " elements of one rank and ", all, " of all ", size_,
        " ranks, expected ", own * size_);
}

void Comm::check_root(int root) const {
  check(root >= 0 && root < size_, "[comm] broadcast: found root ", root, ", expected 0 <= root < ", size_);
}

std::string broadcast_string(Comm& comm, const std::string& text, int root) {
  int64_t length = static_cast<int64_t>(text.size());
  comm.broadcast(std::span<int64_t>(&length, 1), root);
  std::string result = text;
  result.resize(static_cast<size_t>(length));
  comm.broadcast(std::span<uint8_t>(reinterpret_cast<uint8_t*>(result.data()), result.size()), root);
  return result;
}

}  // namespace matvlm
