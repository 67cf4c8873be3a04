// `precision.frozen: fp8` from the config on: a run that is stopped and resumed ends with the bits of one that was not,
// the frozen tensors of its export are the teacher's, and the precision cannot change on the way.
#include <gtest/gtest.h>

#include <csignal>

#include "core/tensor_source.h"
#include "tests/support/program.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_job.h"

namespace matvlm::testing {
namespace {

constexpr long kUpdates = 80;

std::vector<std::string> words_of(const std::string& run) {
  return {"distill", "distill.yaml",         "--set", "run.dir=" + run,
          "--set",   "precision.frozen=fp8", "--set", "schedule.total=" + std::to_string(8 * kUpdates)};
}

TEST(Fp8Run, ResumesWithTheSameBitsAndExportsTheTeachersTensors) {
  const TempDir dir;
  make_tiny_job(dir.path());
  const ProgramResult undisturbed = run_program(dir.path(), words_of("reference"));
  ASSERT_EQ(undisturbed.code, 0) << undisturbed.err;
  EXPECT_NE(undisturbed.err.find("of the teacher's matrices are in fp8"), std::string::npos) << undisturbed.err;

  RunningProgram program(dir.path(), words_of("run"));
  const std::vector<int> processes = program.rank_processes();
  ASSERT_TRUE(wait_until(60, [&] { return last_step(dir.file("run")) >= 10 || program.ended(); }));
  ASSERT_EQ(kill(processes.at(0), SIGTERM), 0);
  ASSERT_EQ(program.wait().code, 0);
  ASSERT_LT(last_step(dir.file("run")), kUpdates) << "the run ended before the signal";
  const ProgramResult changed = run_program(dir.path(), {"resume", "run", "--set", "precision.frozen=compute"});
  EXPECT_NE(changed.code, 0);
  EXPECT_NE(changed.err.find("key 'precision.frozen': found compute, expected fp8"), std::string::npos) << changed.err;
  const ProgramResult resumed = run_program(dir.path(), {"resume", "run"});
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  const RunTrace expected = trace_of(dir.file("reference"));
  const RunTrace found = trace_of(dir.file("run"));
  EXPECT_EQ(found.checkpoint, expected.checkpoint);
  EXPECT_TRUE(found.model == expected.model) << "the weights differ";
  EXPECT_TRUE(found.optimizer == expected.optimizer) << "the moments differ";
  EXPECT_EQ(found.metrics, expected.metrics);

  const ProgramResult exported = run_program(dir.path(), {"export", "run", "--out", "student"});
  ASSERT_EQ(exported.code, 0) << exported.err;
  const TensorSource student = TensorSource::open(dir.file("student"));
  const TensorSource teacher = TensorSource::open(dir.file("teacher"));
  for (const std::string name : {"language_model.model.layers.0.mlp.fc1.weight", "language_model.lm_head.weight"}) {
    EXPECT_EQ(student.read_floats(name), teacher.read_floats(name)) << name;
  }
}

}  // namespace
}  // namespace matvlm::testing
