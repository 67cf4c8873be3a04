// Logging over spdlog; the only file that includes it.
#include "core/log.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <memory>
#include <mutex>
#include <vector>

#include "core/error.h"

namespace matvlm {
namespace {

std::string host_name() {
  char host[256] = "host";
  if (::gethostname(host, sizeof(host) - 1) != 0) return "host";
  return host;
}

std::shared_ptr<spdlog::logger> make_logger(int rank, int world, const std::string& file) {
  std::vector<spdlog::sink_ptr> sinks;
  // Colour only on a terminal: the sink's automatic mode looks at stderr itself.
  sinks.push_back(std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
  if (!file.empty()) {
    try {
      sinks.push_back(std::make_shared<spdlog::sinks::basic_file_sink_mt>(file));
    } catch (const spdlog::spdlog_ex& error) {
      fail(file, ": cannot open the log file: ", error.what());
    }
  }
  auto logger = std::make_shared<spdlog::logger>("matvlm", sinks.begin(), sinks.end());
  const std::string who = world > 1 ? cat("[", rank, " ", host_name(), "]") : cat("[", host_name(), "]");
  logger->set_pattern("%H:%M:%S %^%l%$ " + who + " %v");
  logger->set_level(rank == 0 ? spdlog::level::info : spdlog::level::warn);
  logger->flush_on(spdlog::level::info);  // the last lines before a crash matter most
  return logger;
}

struct State {
  std::mutex mutex;
  std::shared_ptr<spdlog::logger> logger;
};

State& state() {
  static State value;
  return value;
}

void write(spdlog::level::level_enum level, const std::string& message) {
  std::shared_ptr<spdlog::logger> logger;
  {
    const std::lock_guard lock(state().mutex);
    if (state().logger == nullptr) state().logger = make_logger(0, 1, "");
    logger = state().logger;
  }
  logger->log(level, spdlog::string_view_t(message));  // no format string: braces in the message stay
}

}  // namespace

void log_init(int rank, int world, const std::string& file) {
  check(world >= 1 && rank >= 0 && rank < world, "[log] found rank ", rank, " of ", world,
        ", expected 0 <= rank < world");
  std::shared_ptr<spdlog::logger> logger = make_logger(rank, world, file);
  const std::lock_guard lock(state().mutex);
  state().logger = std::move(logger);
}

void log_info(const std::string& message) { write(spdlog::level::info, message); }
void log_warn(const std::string& message) { write(spdlog::level::warn, message); }
void log_error(const std::string& message) { write(spdlog::level::err, message); }

}  // namespace matvlm
