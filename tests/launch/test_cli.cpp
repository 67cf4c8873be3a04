// The command line: usage errors are one line and code 2, failures one line and code 1, help and version code 0. In the
// process by parse_command_line, and through the built program, which stands beside the tests' folder.
#include "launch/cli.h"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "launch/version.h"
#include "tests/support/temp_dir.h"

namespace matvlm {
namespace {

namespace fs = std::filesystem;
using testing::TempDir;

struct Parsed {
  CommandLine command;
  std::string out;
  std::string err;
};

Parsed parse(std::vector<std::string> words) {
  words.insert(words.begin(), "matvlm");
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  Parsed parsed;
  parsed.command = parse_command_line(static_cast<int>(argv.size()), argv.data());
  parsed.out = ::testing::internal::GetCapturedStdout();
  parsed.err = ::testing::internal::GetCapturedStderr();
  return parsed;
}

TEST(Cli, UsageErrorsAreOneLineAndCode2) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{}, "a subcommand is required"},
      {{"distil"}, "The following argument was not expected: distil"},
      {{"distill"}, "config is required"},
      {{"distill", "a", "--set"}, "--set: 1 required KEY=VALUE missing"},
      {{"data"}, "a subcommand of data is required"},
      {{"bench"}, "a subcommand of bench is required"},
      {{"data", "pack", "--data", "x"}, "--tokenizer is required"},
      {{"resume"}, "run is required"},
      {{"check"}, "config is required"},
      {{"generate", "--model", "m"}, "--prompt is required"},
      {{"eval", "--model", "m", "--data", "d", "--samples", "-1"},
       "--samples: found '-1', expected a number of at least 0"},
      {{"eval", "--model", "m", "--data", "d", "--device", "gpu"}, "--device: found 'gpu', expected auto, cpu or cuda"},
  };
  for (const auto& [words, message] : cases) {
    const Parsed parsed = parse(words);
    EXPECT_EQ(parsed.err, "matvlm: " + message + " (see matvlm --help)\n");
    EXPECT_EQ(parsed.out, "");
    EXPECT_EQ(parsed.command.exit_code, kExitUsage);
    EXPECT_FALSE(parsed.command.job || parsed.command.tool) << message;
  }
}

TEST(Cli, EverySubcommandHasHelp) {
  const std::vector<std::vector<std::string>> commands = {{},
                                                          {"distill"},
                                                          {"teach"},
                                                          {"resume"},
                                                          {"eval"},
                                                          {"export"},
                                                          {"generate"},
                                                          {"inspect"},
                                                          {"check"},
                                                          {"init"},
                                                          {"bench"},
                                                          {"bench", "step"},
                                                          {"data"},
                                                          {"data", "emoji"},
                                                          {"data", "synthetic"},
                                                          {"data", "tokenizer"},
                                                          {"data", "pack"}};
  for (std::vector<std::string> words : commands) {
    words.emplace_back("--help");
    const Parsed parsed = parse(words);
    EXPECT_EQ(parsed.command.exit_code, kExitOk);
    EXPECT_EQ(parsed.err, "");
    EXPECT_NE(parsed.out.find("Usage: matvlm"), std::string::npos) << words.front();
    EXPECT_FALSE(parsed.command.job || parsed.command.tool);
  }
}

TEST(Cli, TrainingRunsUnderMpiAndToolsDoNot) {
  EXPECT_TRUE(parse({"distill", "c.yaml", "--set", "a.b=1", "--set", "c=2", "--device", "cpu"}).command.job);
  EXPECT_TRUE(parse({"check", "c.yaml", "--ranks", "4"}).command.job);
  EXPECT_TRUE(parse({"inspect", "file"}).command.tool);
  EXPECT_TRUE(parse({"check", "--reference"}).command.tool);
}

TEST(Cli, VersionIsThatOfTheBuild) {
  const std::string cmake = read_file(std::string(MATVLM_SOURCE_DIR) + "/CMakeLists.txt");
  EXPECT_NE(cmake.find(cat("project(matvlm VERSION ", kVersion, " ")), std::string::npos);
  EXPECT_EQ(parse({"--version"}).out, cat("matvlm ", kVersion, "\n"));
}

// ---- the built program

struct ProgramRun {
  int code = -1;
  std::string out;
  std::string err;
};

std::string program() {
  const fs::path path = fs::read_symlink("/proc/self/exe").parent_path().parent_path() / "matvlm";
  return path.string();
}

ProgramRun run(const std::string& arguments) {
  const TempDir dir;
  const std::string command = cat("OMP_NUM_THREADS=1 ", program(), " ", arguments, " >", dir.file("out"), " 2>",
                                  dir.file("err"), " </dev/null");
  ProgramRun result;
  const int status = std::system(command.c_str());
  result.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.out = read_file(dir.file("out"));
  result.err = read_file(dir.file("err"));
  return result;
}

// One line, which holds `part`.
void expect_failure(const std::string& arguments, const std::string& part, int code = kExitFailure) {
  const ProgramRun result = run(arguments);
  EXPECT_EQ(result.code, code) << arguments;
  EXPECT_NE(result.err.find(part), std::string::npos) << result.err;
  EXPECT_EQ(result.err.find('\n'), result.err.size() - 1) << result.err;
}

TEST(CliProgram, ExitCodes) {
  ASSERT_TRUE(fs::exists(program())) << program() << " is not built";
  EXPECT_EQ(run("--version").code, kExitOk);
  EXPECT_EQ(run("--help").code, kExitOk);
  expect_failure("distil", "was not expected: distil", kExitUsage);
  expect_failure("inspect nowhere.safetensors", "nowhere.safetensors: found nothing, expected a file or folder");
  expect_failure("distill nowhere.yaml", "nowhere.yaml: ");
  expect_failure("resume nowhere", "nowhere");
  const ProgramRun reference = run("check --reference");
  EXPECT_EQ(reference.code, kExitOk);
  EXPECT_EQ(reference.out, read_file(std::string(MATVLM_SOURCE_DIR) + "/configs/reference.yaml"));
}

TEST(CliProgram, ConfigErrorsNameFileLineAndKey) {
  const TempDir dir;
  const std::string path = dir.file("c.yaml");
  write_file_atomic(path, "run:\n  dir: " + dir.file("run") + "\noptimiser:\n  lr: 1\n");
  expect_failure("distill " + path, path + ":3: key 'optimiser': found an unknown key, expected a known one");
  expect_failure("check " + path, path + ":3: key 'optimiser'");
  write_file_atomic(path, "run:\n  dir: " + dir.file("run") + "\n");
  expect_failure("distill " + path + " --set nonsense", "--set nonsense: found no '='");
  EXPECT_FALSE(fs::exists(dir.file("run")));
}

TEST(CliProgram, DataGoesFromPicturesToAPack) {
  const TempDir dir;
  const std::string data = dir.file("data");
  ASSERT_EQ(run("data synthetic --out " + data + " --samples 32 --image-size 32").code, kExitOk);
  const std::string tokenizer = data + "/tokenizer.json";
  const ProgramRun learnt = run(cat("data tokenizer --data ", data, "/train.json --out ", tokenizer, " --vocab 400"));
  ASSERT_EQ(learnt.code, kExitOk) << learnt.err;
  const std::string pack =
      cat("data pack --data ", data, "/train.json --images ", data, "/images --tokenizer ", tokenizer);
  const ProgramRun packed = run(cat(pack, " --out ", data, "/train.h5 --max-length 96 --tokens-per-image 16"));
  ASSERT_EQ(packed.code, kExitOk) << packed.err;
  EXPECT_NE(packed.out.find("train.h5: 32 samples"), std::string::npos) << packed.out;
  const ProgramRun inspected = run(cat("inspect --stats ", data, "/train.h5"));
  EXPECT_EQ(inspected.code, kExitOk) << inspected.err;
  EXPECT_NE(inspected.out.find("pack, version 1: 32 samples"), std::string::npos) << inspected.out;
  expect_failure(cat(pack, "/nowhere --out ", data, "/x.h5"), "nowhere");
  EXPECT_FALSE(fs::exists(data + "/x.h5"));
}

TEST(CliProgram, InspectsSafetensorsAndRefusesBrokenOnes) {
  const std::string good = std::string(MATVLM_SOURCE_DIR) + "/tests/golden/a/batch.safetensors";
  const ProgramRun result = run("inspect --stats " + good);
  EXPECT_EQ(result.code, kExitOk);
  EXPECT_NE(result.out.find("input_ids"), std::string::npos);
  EXPECT_NE(result.out.find("3 tensors"), std::string::npos) << result.out;
  const TempDir dir;
  write_file_atomic(dir.file("cut.safetensors"), read_file(good).substr(0, 100));
  expect_failure("inspect " + dir.file("cut.safetensors"), "cut.safetensors: ");
  write_file_atomic(dir.file("cut.h5"), "\x89HDF\r\n\x1a\nrest");
  expect_failure("inspect " + dir.file("cut.h5"), "cut.h5: ");
}

}  // namespace
}  // namespace matvlm
