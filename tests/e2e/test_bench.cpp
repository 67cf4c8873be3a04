// `bench step` and `init` of the built program: what they print and write, on the CPU with the demo's sizes.
#include <gtest/gtest.h>

#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "tests/support/errors.h"
#include "tests/support/program.h"
#include "tests/support/temp_dir.h"

namespace matvlm::testing {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

const std::string kTeacher = std::string(MATVLM_SOURCE_DIR) + "/configs/demo-teacher";

Words bench_words(const Words& more) {
  Words words = {"bench",     "step",
                 "--config",  std::string(MATVLM_SOURCE_DIR) + "/configs/synthetic-test.yaml",
                 "--set",     "teacher.path=" + kTeacher,
                 "--device",  "cpu",
                 "--updates", "3"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

TEST(BenchStep, SaysWhereTheTimeGoes) {
  const TempDir dir;
  const ProgramResult result =
      run_program(dir.path(), bench_words({"--shapes", "2x40", "1x64:blocks", "2x20", "--json", "out.json"}));
  ASSERT_EQ(result.code, 0) << result.err;
  for (const char* part : {"vision", "teacher", "student", "head + loss", "layer pass", "backward", "optimizer", "host",
                           "tokens/s", "matrix product", "peak memory", "B 2, L 40 with a picture each, recompute none",
                           "B 1, L 64 with a picture each, recompute blocks", "B 2, L 20, text only, recompute none"}) {
    EXPECT_TRUE(contains(result.out, part)) << part << " in\n" << result.out;
  }
  const Json json = Json::read_file(dir.file("out.json"));
  EXPECT_EQ(json.at("ranks").as_int(), 1);
  EXPECT_EQ(json.at("ssm_layers").as_int(), 2);
  EXPECT_GT(json.at("matmul_tflops").as_double(), 0);
  ASSERT_EQ(json.at("shapes").size(), 3);
  for (int64_t i = 0; i < 3; ++i) {
    const Json shape = json.at("shapes").at(i);
    const double ms = shape.at("ms").as_double();
    double sum = 0;
    for (const std::string& part : shape.at("parts_ms").keys()) {
      const double time = shape.at("parts_ms").at(part).as_double();
      const bool used =
          part != "communication" && (shape.at("images").as_int() > 0 || (part != "vision" && part != "upload"));
      EXPECT_GE(time, 0) << part;
      if (used) {
        EXPECT_GT(time, 0) << part;
      }
      sum += time;
    }
    const double parts = shape.at("parts_sum_ms").as_double();
    EXPECT_NEAR(sum, parts, 1e-6 * parts);
    const auto tokens = static_cast<double>(shape.at("batch").as_int() * shape.at("length").as_int());
    EXPECT_NEAR(shape.at("tokens_per_second").as_double(), tokens / ms * 1e3, 1e-6 * tokens / ms * 1e3);
    EXPECT_GT(shape.at("peak_bytes").as_int(), 0);
  }
  // A picture takes 36 positions, which 20 do not hold.
  EXPECT_EQ(json.at("shapes").at(int64_t{0}).at("images").as_int(), 2);
  EXPECT_EQ(json.at("shapes").at(int64_t{2}).at("images").as_int(), 0);
}

// Each shape has the layers that it needs: a quarter of what recomputing saves is saved by some of them.
TEST(BenchStep, RecomputesAsMuchAsTheMemoryAsksFor) {
  const TempDir dir;
  ASSERT_EQ(run_program(dir.path(), bench_words({"--shapes", "6x90", "6x90:blocks", "--json", "all.json"})).code, 0);
  const Json all = Json::read_file(dir.file("all.json")).at("shapes");
  const auto reserved = [&](int64_t i) { return all.at(i).at("predicted_reserved_bytes").as_int(); };
  ASSERT_GT(reserved(0), reserved(1));
  EXPECT_EQ(all.at(int64_t{1}).at("recompute_layers").as_int(), 4);
  const std::string limit = "run.memory_limit=" + std::to_string((3 * reserved(0) + reserved(1)) / 4);
  const ProgramResult result =
      run_program(dir.path(), bench_words({"--shapes", "6x90:blocks", "1x40:blocks", "--set", limit, "--set",
                                           "train.recompute_layers=auto", "--json", "some.json"}));
  ASSERT_EQ(result.code, 0) << result.err;
  const Json some = Json::read_file(dir.file("some.json")).at("shapes");
  const int64_t layers = some.at(int64_t{0}).at("recompute_layers").as_int();
  EXPECT_TRUE(layers > 0 && layers < 4) << layers;
  EXPECT_EQ(some.at(int64_t{0}).at("loss").as_double(), all.at(int64_t{0}).at("loss").as_double());
  EXPECT_EQ(some.at(int64_t{1}).at("recompute_layers").as_int(), 0);
  EXPECT_TRUE(contains(result.out, cat("recompute blocks in ", layers, " of 4 layers"))) << result.out;
}

TEST(BenchStep, OnTwoRanks) {
  const TempDir dir;
  const ProgramResult result =
      run_program(dir.path(), bench_words({"--shapes", "2x24", "--text-only", "--json", "out.json"}), 2);
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(contains(result.out, "sum over ranks alone")) << result.out;
  const Json shape = Json::read_file(dir.file("out.json")).at("shapes").at(int64_t{0});
  EXPECT_GT(shape.at("comm_ms").as_double(), 0);
  const double hidden = shape.at("comm_hidden").as_double();
  EXPECT_TRUE(hidden >= 0 && hidden <= 1) << hidden;
  EXPECT_NEAR(shape.at("tokens_per_second").as_double() * shape.at("ms").as_double(), 2 * 2 * 24 * 1e3, 1e-3);
}

TEST(BenchStep, WhatItRefuses) {
  const TempDir dir;
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"4y1024", "--shapes: found '4y1024', expected samples x positions"},
      {"4x", "--shapes: found '4x'"},
      {"0x64", "--shapes: found '0x64'"},
      {"4x64:", "--shapes: found '4x64:'"},
      {"4x64:some", "train.recompute"}};
  for (const auto& [shape, message] : cases) {
    const ProgramResult result = run_program(dir.path(), bench_words({"--shapes", shape}));
    EXPECT_EQ(result.code, 1);
    EXPECT_TRUE(contains(result.err, message)) << result.err;
    EXPECT_EQ(result.out, "");
  }
}

TEST(Init, WritesAModelThatRuns) {
  const TempDir dir;
  const auto init = [&](const std::string& out, const std::string& seed) {
    return run_program(dir.path(), {"init", "--random", kTeacher + "/config.json", "--out", out, "--seed", seed,
                                    "--max-shard-size", "2MB"});
  };
  ASSERT_EQ(init("a", "1").code, 0);
  ASSERT_EQ(init("b", "1").code, 0);
  ASSERT_EQ(init("c", "2").code, 0);
  std::vector<std::string> shards;
  for (const auto& entry : fs::directory_iterator(dir.file("a"))) {
    if (entry.path().extension() == ".safetensors") shards.push_back(entry.path().filename().string());
  }
  EXPECT_GT(shards.size(), 2U);  // 3.3 M parameters in bf16
  EXPECT_TRUE(fs::exists(dir.file("a/model.safetensors.index.json")));
  bool other = false;
  for (const std::string& name : shards) {
    EXPECT_EQ(read_file(dir.file("a/" + name)), read_file(dir.file("b/" + name))) << name;
    other = other || read_file(dir.file("a/" + name)) != read_file(dir.file("c/" + name));
  }
  EXPECT_TRUE(other);
  const ProgramResult same =
      run_program(dir.path(), {"generate", "--model", "a", "--prompt", "What is this?", "--max-new-tokens", "2"});
  EXPECT_EQ(same.code, 0) << same.err;
}

TEST(Init, WhatItRefuses) {
  const TempDir dir;
  write_file_atomic(dir.file("sizes.json"), "{}");
  const ProgramResult result = run_program(dir.path(), {"init", "--random", "sizes.json", "--out", "x"});
  EXPECT_EQ(result.code, 1);
  EXPECT_TRUE(contains(result.err, "--random: found 'sizes.json', expected a config.json")) << result.err;
  EXPECT_FALSE(fs::exists(dir.file("x")));
}

}  // namespace
}  // namespace matvlm::testing
