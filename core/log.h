// The program's messages on stderr, each with time, level and `[rank host]`. Rank 0 logs everything, the other ranks
// only warnings and errors, so that N ranks do not say the same thing N times. Safe to call from any thread, and before
// log_init (as rank 0).
#pragma once

#include <string>

namespace matvlm {

// `file`: messages are also appended to it, uncoloured; empty for none. Error when it cannot be opened, or unless
// 0 <= rank < world. With world 1 the prefix is `[host]`.
void log_init(int rank, int world, const std::string& file = "");

void log_info(const std::string& message);
void log_warn(const std::string& message);
void log_error(const std::string& message);

}  // namespace matvlm
