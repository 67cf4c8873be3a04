// export: a run's model as a folder that other programs load.
#include <charconv>

#include "core/log.h"
#include "launch/commands.h"
#include "launch/export.h"
#include "launch/runtime.h"

namespace matvlm {

int run_export(Process& process, const ExportArgs& args) {
  check(process.size() == 1, "export: found ", process.size(), " ranks, expected 1");
  ExportOptions options;
  if (args.checkpoint == "latest") {
    options.from = ExportFrom::latest;
  } else if (args.checkpoint == "start") {
    options.from = ExportFrom::start;
  } else if (args.checkpoint != "best") {
    const char* end = args.checkpoint.data() + args.checkpoint.size();
    const auto [parsed, error] = std::from_chars(args.checkpoint.data(), end, options.update);
    check(error == std::errc() && parsed == end && options.update >= 0, "--checkpoint: found '", args.checkpoint,
          "', expected best, latest, start or the number of an update");
    options.from = ExportFrom::update;
  }
  options.format = args.format == "hf-teacher" ? ExportFormat::hf_teacher : ExportFormat::matvlm;
  if (args.dtype != "auto") options.dtype = args.dtype == "f16" ? DType::f16 : parse_precision(args.dtype);
  if (!args.max_shard_size.empty()) options.shard_bytes = parse_byte_size(args.max_shard_size, "--max-shard-size");
  export_model(args.run, args.out, options);
  log_info(cat("exported ", args.run, " to ", args.out));
  return 0;
}

}  // namespace matvlm
