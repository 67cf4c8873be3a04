// metrics.jsonl and what is printed: lines, shortening on resume, texts.
#include "launch/metrics.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "core/error.h"
#include "core/file.h"
#include "tests/support/temp_dir.h"

namespace matvlm {
namespace {

using testing::TempDir;

StepMetrics metrics_at(int64_t step) {
  StepMetrics metrics;
  metrics.step = step;
  metrics.samples = 64 * step;
  metrics.losses = {{"total", 3.25}, {"kl", 1.25}, {"layer", 2.0}};
  metrics.grad_norm = 0.5;
  metrics.lr = 2e-4;
  metrics.tokens_per_second = 1234.4;
  metrics.memory_bytes = int64_t{3} << 29;
  metrics.data_wait = 0.021;
  metrics.eta_seconds = 3725;
  return metrics;
}

std::vector<int64_t> steps_of(const std::string& path) {
  const std::string text = read_file(path);
  std::vector<int64_t> steps;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    EXPECT_NE(end, std::string::npos);
    steps.push_back(Json::parse(text.substr(begin, end - begin), path).at("step").as_int());
    begin = end + 1;
  }
  return steps;
}

TEST(Metrics, WritesOneCompleteLinePerStep) {
  const TempDir dir;
  const std::string path = dir.file("metrics.jsonl");
  MetricsLog log(path, 0, 0, 1000);
  log.step(metrics_at(1));
  const Json line = Json::parse(read_file(path), path);  // on the disk before the log is closed
  EXPECT_EQ(line.at("step").as_int(), 1);
  EXPECT_EQ(line.at("samples").as_int(), 64);
  EXPECT_EQ(line.at("loss").keys(), (std::vector<std::string>{"total", "kl", "layer"}));
  EXPECT_EQ(line.at("loss").at("kl").as_double(), 1.25);
  EXPECT_EQ(line.at("lr").as_double(), 2e-4);
  log.event("eval", 1, {{"exact_match", 0.5}});
  EXPECT_EQ(steps_of(path), (std::vector<int64_t>{1, 1}));
}

TEST(Metrics, ResumeLeavesNoStepTwice) {
  const TempDir dir;
  const std::string path = dir.file("metrics.jsonl");
  {
    MetricsLog log(path, 0, 0, 1000);
    for (int64_t step = 1; step <= 7; ++step) log.step(metrics_at(step));
  }
  const std::string seven = read_file(path);
  write_file_atomic(path, seven + seven.substr(0, 30));  // killed while writing
  {
    MetricsLog log(path, 5, 5, 1000);
    EXPECT_EQ(steps_of(path), (std::vector<int64_t>{1, 2, 3, 4, 5}));
    for (int64_t step = 6; step <= 7; ++step) log.step(metrics_at(step));
  }
  EXPECT_EQ(read_file(path), seven);
  write_file_atomic(path, seven + seven.substr(0, 30));
  { const MetricsLog log(path, 7, 7, 1000); }
  EXPECT_EQ(read_file(path), seven);
  { const MetricsLog log(path, 0, 0, 1000); }
  EXPECT_EQ(read_file(path), "");
}

// A signal can come between a step and its evaluation; the evaluation is made by the run that resumes.
TEST(Metrics, ResumeBeforeAnEvaluationLeavesNoEventTwice) {
  const TempDir dir;
  const std::string path = dir.file("metrics.jsonl");
  {
    MetricsLog log(path, 0, 0, 1000);
    log.step(metrics_at(1));
    log.event("eval", 1, {{"total", 0.5}});
    log.step(metrics_at(2));
    log.event("eval", 2, {{"total", 0.25}});
  }
  const std::string all = read_file(path);
  { const MetricsLog log(path, 2, 2, 1000); }
  EXPECT_EQ(read_file(path), all);
  MetricsLog log(path, 2, 1, 1000);
  EXPECT_EQ(steps_of(path), (std::vector<int64_t>{1, 1, 2}));
  log.event("eval", 2, {{"total", 0.25}});
  EXPECT_EQ(read_file(path), all);
}

TEST(Metrics, RefusesFilesOfOthers) {
  const TempDir dir;
  const std::string path = dir.file("metrics.jsonl");
  write_file_atomic(path, "{\"step\": 1}\nhello\n");
  try {
    const MetricsLog log(path, 5, 5, 1000);
    FAIL();
  } catch (const Error& error) {
    EXPECT_TRUE(std::string(error.what()).starts_with(path + ":2")) << error.what();
  }
  EXPECT_EQ(read_file(path), "{\"step\": 1}\nhello\n");
}

TEST(Metrics, TextsForPeople) {
  EXPECT_EQ(
      step_line(metrics_at(10)),
      "step 10  samples 640  total 3.25  kl 1.25  layer 2  grad 0.5  lr 0.0002  1234 tokens/s  mem 1.5 GiB  wait 2 "
      "%  ETA 1h 02m");
  EXPECT_EQ(duration_text(59.4), "59s");
  EXPECT_EQ(duration_text(61), "1m 01s");
  EXPECT_EQ(duration_text(-1), "?");
  EXPECT_EQ(duration_text(std::numeric_limits<double>::infinity()), "?");
  EXPECT_EQ(memory_text(int64_t{5} << 20), "5 MiB");
  EXPECT_EQ(progress_bar(0.404, 10), "[####......]  40 %");
  EXPECT_EQ(progress_bar(0.9999, 10), "[#########.]  99 %");
  EXPECT_EQ(progress_bar(1.5, 4), "[####] 100 %");
}

}  // namespace
}  // namespace matvlm
