// --help of the built program and of each of its subcommands says what it does and what it takes; nonsense is a usage
// error: one line on stderr and exit code 2. Under mpirun, too.
#include <gtest/gtest.h>

#include "tests/support/errors.h"
#include "tests/support/program.h"
#include "tests/support/temp_dir.h"

namespace matvlm::testing {
namespace {

using Words = std::vector<std::string>;

TEST(Help, EverySubcommand) {
  // Each with words that its help must hold.
  const std::vector<std::pair<Words, Words>> commands = {
      {{},
       {"distill", "teach", "resume", "eval", "generate", "export", "data", "inspect", "check", "init", "bench",
        "--version"}},
      {{"distill"}, {"CONFIG", "--set KEY=VALUE", "--device"}},
      {{"teach"}, {"CONFIG", "--set KEY=VALUE", "--device"}},
      {{"resume"}, {"RUN", "--set KEY=VALUE", "--device"}},
      {{"eval"}, {"--model", "--data", "--teacher", "--samples", "--json", "--device", "--precision"}},
      {{"generate"}, {"--model", "--image", "--prompt", "--temperature", "--seed", "--device"}},
      {{"export"}, {"RUN", "--out", "--checkpoint", "--format", "--dtype", "--max-shard-size"}},
      {{"inspect"}, {"FILE", "--stats", "--compare"}},
      {{"check"}, {"CONFIG", "--set KEY=VALUE", "--ranks", "--reference"}},
      {{"init"}, {"--random", "CONFIG", "--out", "--seed", "--max-shard-size"}},
      {{"bench"}, {"step"}},
      {{"bench", "step"}, {"--config", "--shapes", "--updates", "--json", "--set KEY=VALUE", "--text-only"}},
      {{"data"}, {"emoji", "synthetic", "tokenizer", "pack"}},
      {{"data", "emoji"}, {"--out", "--language", "--font"}},
      {{"data", "synthetic"}, {"--out", "--samples", "--image-size"}},
      {{"data", "tokenizer"}, {"--data", "--out", "--vocab"}},
      {{"data", "pack"}, {"--data", "--images", "--tokenizer", "--out", "--max-length", "--skip-bad"}}};
  const TempDir dir;
  for (const auto& [command, parts] : commands) {
    for (const char* flag : {"--help", "-h"}) {
      Words words = command;
      words.emplace_back(flag);
      const ProgramResult result = run_program(dir.path(), words);
      EXPECT_EQ(result.code, 0) << result.err;
      EXPECT_EQ(result.err, "");
      EXPECT_TRUE(contains(result.out, "Usage: matvlm")) << result.out;
      for (const std::string& part : parts) EXPECT_TRUE(contains(result.out, part)) << part << " in\n" << result.out;
    }
  }
  const ProgramResult under_mpirun = run_program(dir.path(), {"distill", "--help"}, 2);
  EXPECT_EQ(under_mpirun.code, 0) << under_mpirun.err;
}

TEST(Help, NonsenseIsAUsageError) {
  const TempDir dir;
  for (const Words& words : std::vector<Words>{{},
                                               {"nonsense"},
                                               {"distill"},
                                               {"distill", "a.yaml", "b.yaml"},
                                               {"distill", "a.yaml", "--sett", "a=b"},
                                               {"resume"},
                                               {"eval", "--model", "x"},
                                               {"eval", "--model", "x", "--data", "y", "--micro", "0"},
                                               {"eval", "--model", "x", "--data", "y", "--samples", "many"},
                                               {"generate", "--model", "x", "--prompt", "y", "--device", "tpu"},
                                               {"generate", "--model", "x", "--prompt", "y", "--precision", "f8"},
                                               {"export", "x"},
                                               {"check", "x", "--ranks", "0"},
                                               {"init", "--random", "x"},
                                               {"bench"},
                                               {"bench", "step"},
                                               {"bench", "step", "--config", "x", "--updates", "0"},
                                               {"data"},
                                               {"data", "nonsense"},
                                               {"data", "synthetic", "--out", "x", "--samples", "-3"},
                                               {"data", "pack", "--data", "x"}}) {
    const ProgramResult result = run_program(dir.path(), words);
    EXPECT_EQ(result.code, 2) << result.err;
    EXPECT_EQ(result.out, "");
    EXPECT_TRUE(result.err.starts_with("matvlm: ") && result.err.find('\n') == result.err.size() - 1) << result.err;
  }
  EXPECT_NE(run_program(dir.path(), {"nonsense"}, 2).code, 0);
}

}  // namespace
}  // namespace matvlm::testing
