// export: a run's model as a folder that other programs load.
#include <charconv>

#include "core/log.h"
#include "launch/commands.h"
#include "launch/model_folder.h"
#include "launch/runtime.h"

namespace matvlm {

int run_export(Process& process, const ExportArgs& args) {
  check(process.size() == 1, "export: found ", process.size(), " ranks, expected 1");
  ExportFrom from = ExportFrom::best;
  int64_t update = 0;
  if (args.checkpoint == "latest") {
    from = ExportFrom::latest;
  } else if (args.checkpoint == "start") {
    from = ExportFrom::start;
  } else if (args.checkpoint != "best") {
    const char* end = args.checkpoint.data() + args.checkpoint.size();
    const auto [parsed, error] = std::from_chars(args.checkpoint.data(), end, update);
    check(error == std::errc() && parsed == end && update >= 0, "--checkpoint: found '", args.checkpoint,
          "', expected best, latest, start or the number of an update");
    from = ExportFrom::update;
  }
  export_run(args.run, args.out, from, update, parse_precision(args.precision));
  log_info(cat("exported ", args.run, " to ", args.out));
  return 0;
}

}  // namespace matvlm
