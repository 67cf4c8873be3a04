// Everything a run depends on, as plain structs read from YAML. Every key is declared once, in launch/config_keys.cpp;
// reader, writer, table, differences and configs/reference.yaml come from that declaration.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "data/image.h"
#include "distill/config.h"
#include "layers/pass.h"

namespace matvlm {

enum class RunKind { distill, teach };
enum class DeviceChoice { automatic, cpu, cuda };  // automatic: CUDA when the build and the machine have it
enum class AttentionBackend { native, cudnn };
enum class FrozenPrecision { compute, fp8 };  // of the frozen matrices of the blocks: as `precision`, or e4m3

// Written as bytes or with a unit: 22GiB.
struct ByteSize {
  int64_t bytes = 0;
};

struct RunSection {
  std::string dir;
  std::string name;
  int64_t seed = 0;
  ByteSize memory_limit;  // of the device's allocator; 0 = none
};

struct AttentionSection {
  AttentionBackend backend = AttentionBackend::native;
};

struct TeacherSection {
  std::string path;
};

struct StudentSection : StudentConfig {
  double ssm_fraction = 0;  // 0 = ssm_layers says it; see resolve_ssm_layers
  std::string init_from;    // exported student whose weights are the start; empty = by `init`
  std::string previous;     // exported student with some of the Mamba layers, which are taken over; empty = none
};

// Packs that are one data set, as files or patterns (see data/dataset.h); in YAML a text or a list of texts.
struct PackPaths {
  std::vector<std::string> paths;
  bool empty() const { return paths.empty(); }
  bool operator==(const PackPaths&) const = default;
};

struct DataSection {
  PackPaths train;
  PackPaths heldout;  // empty = no evaluation
  int64_t max_length = 1428;
  ImageAspect image_aspect = ImageAspect::square;
  int64_t prefetch = 4;     // micro-batches made ahead
  int64_t threads = 1;      // that make them, on each rank
  int64_t cache_mib = 512;  // of preprocessed pictures, on each rank
};

struct BatchSection {
  int64_t size = 64;  // samples of an update, over all ranks and micro-batches
  int64_t micro = 1;  // samples of a forward pass of one rank
};

// In how many of the language model's layers: a number, all, or as few as the memory allows.
struct RecomputeLayers {
  enum class Kind { all, automatic, number };
  Kind kind = Kind::all;
  int64_t number = 0;
};

struct TrainSection {
  Recompute recompute = Recompute::none;
  int64_t recompute_every = 1;       // layers
  RecomputeLayers recompute_layers;  // resolved by choose_recompute()
  GraphUse cuda_graph = GraphUse::automatic;
  int64_t log_every = 1;           // updates
  int64_t eval_every = 0;          // updates; 0 = never
  int64_t eval_samples = 0;        // 0 = the whole held-out pack
  int64_t checkpoint_every = 100;  // updates
  int64_t keep = 3;                // newest checkpoints kept, the best one besides
  int64_t watchdog_seconds = 600;  // without progress before the job is ended; 0 = off
};

struct TeachVision {
  int64_t width = 96;
  int64_t layers = 3;
  int64_t heads = 4;
  int64_t mlp = 192;
  int64_t image_size = 64;
  int64_t patch = 8;
};

// A small Phi with SigLIP and connector, made new by `matvlm teach`. The vocabulary is the tokenizer's.
struct TeachModel {
  int64_t hidden = 128;
  int64_t layers = 4;
  int64_t heads = 4;
  int64_t kv_heads = 4;
  int64_t mlp = 256;
  double rotary_fraction = 0.5;
  TeachVision vision;
};

struct TeachSection {
  TeachModel model;
  std::string tokenizer;  // tokenizer.json
};

struct RunConfig {
  RunKind kind = RunKind::distill;  // teach when the file has a `teach` section
  RunSection run;
  DeviceChoice device = DeviceChoice::automatic;
  DType precision = DType::f32;                                 // of compute; f32 or bf16
  FrozenPrecision frozen_precision = FrozenPrecision::compute;  // distill only
  AttentionSection attention;
  TeacherSection teacher;  // distill only
  StudentSection student;  // distill only
  LossConfig loss;         // distill only
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
  DataSection data;
  BatchSection batch;
  TrainSection train;
  TeachSection teach;  // teach only
};

// Reads a YAML file and applies the overrides "a.b=value" in order. An Error is one line
// "file:line: key 'a.b': found X, expected Y" (or "--set a.b=value: key ..."): unknown, missing, duplicate or mistyped
// keys, values out of range, keys of the other kind of run, values that contradict each other.
RunConfig load_config(const std::string& path, const std::vector<std::string>& sets = {});
RunConfig parse_config(const std::string& text, const std::string& source, const std::vector<std::string>& sets = {});

// The effective config: YAML without comments that parse_config reads back to the same values.
std::string config_yaml(const RunConfig& config);
// The same as an aligned table for people, one key a line.
std::string config_table(const RunConfig& config);
// One value of them. Error for an unknown key.
std::string config_value(const RunConfig& config, const std::string& key);

struct ConfigDifference {
  std::string key;
  std::string first;  // values as config_yaml writes them; empty where the key is not of that kind of run
  std::string second;
};
std::vector<ConfigDifference> config_diff(const RunConfig& a, const RunConfig& b);

// Error that lists every key that differs and that a resumed run must keep (what is learnt, from what, in which order).
// `where` heads the message. Keys that only say how the run is carried out (device, micro-batch, logging, checkpoints)
// and the length of the schedule may differ.
void check_resumable(const RunConfig& saved, const RunConfig& now, const std::string& where);

// configs/reference.yaml: every key with its meaning, what it expects and its default.
std::string config_reference();

// The losses that a run trains with: those of the config, or the label loss alone for `teach`.
LossConfig training_loss(const RunConfig& config);

// The layers that become Mamba-2 in a model of n layers: ssm_layers when given, else those of ssm_fraction. For 32
// layers 0.5 gives every second from 0, 0.25 every fourth, 0.125 {0, 6, 12, 18} (method: published 12.5 % run); other
// depths scale the stride. Error when a layer is not below n.
std::vector<int64_t> resolve_ssm_layers(const StudentSection& student, int64_t n_layers);

}  // namespace matvlm
