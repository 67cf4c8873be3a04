// distill, teach and resume.
#include "core/log.h"
#include "launch/commands.h"
#include "launch/training.h"

namespace matvlm {
namespace {

int start_run(Process& process, const RunConfig& config, RunKind expected, const std::string& file) {
  check(config.kind == expected, file, ": found the config of a ", config.kind == RunKind::teach ? "teach" : "distill",
        " run, expected one of a ", expected == RunKind::teach ? "teach" : "distill", " run");
  log_info("effective config:\n" + config_table(config));
  return TrainingRun(process, config, RunDirectory::Start::fresh).run();
}

}  // namespace

int run_distill(Process& process, const DistillArgs& args) {
  return start_run(process, load_config(args.config, args.sets), RunKind::distill, args.config);
}

int run_teach(Process& process, const TeachArgs& args) {
  return start_run(process, load_config(args.config, args.sets), RunKind::teach, args.config);
}

int run_resume(Process& process, const ResumeArgs& args) {
  const std::string file = args.run + "/config.yaml";
  const RunConfig saved = load_config(file);
  RunConfig config = load_config(file, args.sets);
  check_resumable(saved, config, args.run);
  config.run.dir = args.run;  // the directory may have been moved
  log_info("effective config:\n" + config_table(config));
  return TrainingRun(process, config, RunDirectory::Start::resume).run();
}

}  // namespace matvlm
