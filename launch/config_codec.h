// How values of each type are read from and written to YAML: overloads of expected_text, read_value and write_value for
// the types that RunConfig holds. Included by config_keys.cpp only.
#pragma once

#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.h"
#include "launch/config.h"
#include "launch/yaml.h"

namespace matvlm {

// Bounds of a number.
struct Range {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool open_min = false;  // the value must be above min

  bool contains(double x) const { return x <= max && (open_min ? x > min : x >= min); }
  std::string text() const {
    const bool low = std::isfinite(min);
    const bool high = std::isfinite(max);
    if (low && high) return open_min ? cat(" above ", min, " and at most ", max) : cat(" from ", min, " to ", max);
    if (low) return open_min ? cat(" above ", min) : cat(" of at least ", min);
    return high ? cat(" of at most ", max) : "";
  }
};
inline Range above(double min) { return {.min = min, .open_min = true}; }
inline Range at_least(double min) { return {.min = min}; }
inline Range between(double min, double max) { return {.min = min, .max = max}; }

template <class T>
struct EnumNames;  // `values`: pairs of value and name
#define MATVLM_ENUM_NAMES(type, ...)                                             \
  template <>                                                                    \
  struct EnumNames<type> {                                                       \
    static constexpr std::pair<type, std::string_view> values[] = {__VA_ARGS__}; \
  }
MATVLM_ENUM_NAMES(DeviceChoice, {DeviceChoice::automatic, "auto"}, {DeviceChoice::cpu, "cpu"},
                  {DeviceChoice::cuda, "cuda"});
MATVLM_ENUM_NAMES(DType, {DType::f32, "f32"}, {DType::bf16, "bf16"});
MATVLM_ENUM_NAMES(AttentionBackend, {AttentionBackend::native, "native"}, {AttentionBackend::cudnn, "cudnn"});
MATVLM_ENUM_NAMES(FrozenPrecision, {FrozenPrecision::compute, "compute"}, {FrozenPrecision::fp8, "fp8"});
MATVLM_ENUM_NAMES(Recompute, {Recompute::none, "none"}, {Recompute::mlp, "mlp"}, {Recompute::mixers, "mixers"},
                  {Recompute::blocks, "blocks"});
MATVLM_ENUM_NAMES(GraphUse, {GraphUse::automatic, "auto"}, {GraphUse::on, "on"}, {GraphUse::off, "off"});
MATVLM_ENUM_NAMES(Offload, {Offload::none, "none"}, {Offload::cpu, "cpu"});
MATVLM_ENUM_NAMES(ImageAspect, {ImageAspect::square, "square"}, {ImageAspect::pad, "pad"});
MATVLM_ENUM_NAMES(MixerInit, {MixerInit::attention, "attention"}, {MixerInit::random, "random"});
MATVLM_ENUM_NAMES(LogitLossKind, {LogitLossKind::none, "none"}, {LogitLossKind::kl, "kl"},
                  {LogitLossKind::reverse_kl, "reverse_kl"}, {LogitLossKind::jsd, "jsd"},
                  {LogitLossKind::argmax_ce, "argmax_ce"}, {LogitLossKind::logit_l2, "logit_l2"});
MATVLM_ENUM_NAMES(LayerLossKind, {LayerLossKind::none, "none"}, {LayerLossKind::l2, "l2"}, {LayerLossKind::mse, "mse"},
                  {LayerLossKind::cosine, "cosine"});
MATVLM_ENUM_NAMES(Reduction, {Reduction::published, "published"}, {Reduction::per_token, "per_token"});
MATVLM_ENUM_NAMES(LossPositions, {LossPositions::all, "all"}, {LossPositions::answers, "answers"});
MATVLM_ENUM_NAMES(LayerLossAt, {LayerLossAt::mixer, "mixer"}, {LayerLossAt::block, "block"});
MATVLM_ENUM_NAMES(ScheduleKind, {ScheduleKind::wsd, "wsd"}, {ScheduleKind::cosine, "cosine"},
                  {ScheduleKind::constant, "constant"});
#undef MATVLM_ENUM_NAMES

template <class T>
concept NamedEnum = requires {
  EnumNames<T>::values;
};

// What a value of the type must be, for messages.
inline std::string expected_text(const std::string&, const Range&) { return "a text"; }
inline std::string expected_text(const bool&, const Range&) { return "true or false"; }
inline std::string expected_text(const ByteSize&, const Range&) { return "a size like 22GiB, 14.5GiB or 1073741824"; }
inline std::string expected_text(const RecomputeLayers&, const Range&) { return "all, auto or a number of layers"; }
inline std::string expected_text(const int64_t&, const Range& range) { return "a whole number" + range.text(); }
inline std::string expected_text(const double&, const Range& range) { return "a number" + range.text(); }
inline std::string expected_text(const std::vector<int64_t>&, const Range& range) {
  return "a list of whole numbers" + range.text();
}
inline std::string expected_text(const std::array<double, 2>&, const Range& range) {
  return "a list of two numbers" + range.text();
}
inline std::string expected_text(const std::vector<std::string>&, const Range&) { return "a list of texts"; }
inline std::string expected_text(const PackPaths&, const Range&) { return "a text or a list of texts"; }
template <NamedEnum T>
std::string expected_text(const T&, const Range&) {
  std::string text;
  constexpr size_t kCount = std::size(EnumNames<T>::values);
  for (size_t i = 0; i < kCount; ++i) {
    text += cat(i == 0 ? "" : i + 1 == kCount ? " or " : ", ", EnumNames<T>::values[i].second);
  }
  return text;
}

inline bool plain_scalar(const YamlNode& node) { return node.kind == YamlNode::Kind::scalar && !node.quoted; }

template <class T>
bool read_number(const YamlNode& node, const Range& range, T& out) {
  if (!plain_scalar(node)) return false;
  T value{};
  const char* end = node.text.data() + node.text.size();
  const auto [stop, error] = std::from_chars(node.text.data(), end, value);
  if (error != std::errc() || stop != end) return false;
  if (!std::isfinite(static_cast<double>(value)) || !range.contains(static_cast<double>(value))) return false;
  out = value;
  return true;
}

inline bool read_value(const YamlNode& node, const Range& range, int64_t& out) { return read_number(node, range, out); }
inline bool read_value(const YamlNode& node, const Range& range, double& out) { return read_number(node, range, out); }
inline constexpr std::pair<std::string_view, int> kByteUnits[] = {
    {"TiB", 40}, {"GiB", 30}, {"MiB", 20}, {"KiB", 10}, {"", 0}};
inline bool read_value(const YamlNode& node, const Range&, ByteSize& out) {
  if (node.kind != YamlNode::Kind::scalar) return false;
  const char* end = node.text.data() + node.text.size();
  double number = 0;
  const auto [stop, error] = std::from_chars(node.text.data(), end, number, std::chars_format::fixed);
  if (error != std::errc() || !(number >= 0)) return false;
  for (const auto& [unit, shift] : kByteUnits) {
    if (std::string_view(stop, static_cast<size_t>(end - stop)) != unit) continue;
    const double bytes = std::ldexp(number, shift);
    if (bytes > 0x1p53 || (shift == 0 && bytes != std::floor(bytes))) return false;  // exact up to there, 8 PiB
    out.bytes = static_cast<int64_t>(bytes);
    return true;
  }
  return false;
}
inline bool read_value(const YamlNode& node, const Range&, RecomputeLayers& out) {
  if (node.kind != YamlNode::Kind::scalar) return false;
  using Kind = RecomputeLayers::Kind;
  if (node.text == "all" || node.text == "auto") {
    out = {node.text == "all" ? Kind::all : Kind::automatic, 0};
    return true;
  }
  out.kind = Kind::number;
  return read_number(node, at_least(0), out.number);
}
inline bool read_value(const YamlNode& node, const Range&, std::string& out) {
  if (node.kind != YamlNode::Kind::scalar) return false;
  out = node.text;
  return true;
}
inline bool read_value(const YamlNode& node, const Range&, bool& out) {
  if (!plain_scalar(node) || (node.text != "true" && node.text != "false")) return false;
  out = node.text == "true";
  return true;
}
template <NamedEnum T>
bool read_value(const YamlNode& node, const Range&, T& out) {
  if (node.kind != YamlNode::Kind::scalar) return false;
  for (const auto& [value, name] : EnumNames<T>::values) {
    if (name != node.text) continue;
    out = value;
    return true;
  }
  return false;
}
template <class T>
bool read_value(const YamlNode& node, const Range& range, std::vector<T>& out) {
  if (node.kind != YamlNode::Kind::list) return false;
  std::vector<T> values(node.items.size());
  for (size_t i = 0; i < values.size(); ++i) {
    if (!read_value(node.items[i], range, values[i])) return false;
  }
  out = std::move(values);
  return true;
}
inline bool read_value(const YamlNode& node, const Range& range, PackPaths& out) {
  std::string one;
  if (!read_value(node, range, one)) return read_value(node, range, out.paths);
  out.paths.clear();
  if (!one.empty()) out.paths.push_back(one);
  return true;
}
inline bool read_value(const YamlNode& node, const Range& range, std::array<double, 2>& out) {
  std::vector<double> values;
  if (!read_value(node, range, values) || values.size() != 2) return false;
  out = {values[0], values[1]};
  return true;
}

inline std::string write_value(const std::string& value) { return yaml_scalar(value); }
inline std::string write_value(ByteSize value) {
  if (value.bytes == 0) return "0";
  for (const auto& [unit, shift] : kByteUnits) {
    if (value.bytes % (int64_t{1} << shift) == 0) return cat(value.bytes >> shift, unit);
  }
  return cat(value.bytes);
}
inline std::string write_value(RecomputeLayers value) {
  using Kind = RecomputeLayers::Kind;
  return value.kind == Kind::number ? cat(value.number) : value.kind == Kind::all ? "all" : "auto";
}
inline std::string write_value(bool value) { return value ? "true" : "false"; }
inline std::string write_value(int64_t value) { return cat(value); }
inline std::string write_value(double value) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof(text), value).ptr;  // the shortest that reads back the same
  return {text, end};
}
template <NamedEnum T>
std::string write_value(T value) {
  for (const auto& [known, name] : EnumNames<T>::values) {
    if (known == value) return std::string(name);
  }
  fail("[config] found an enumerator without a name (", static_cast<int>(value), ")");
}
template <class T>
std::string write_list(const T& values) {
  std::string text = "[";
  for (const auto& value : values) text += (text.size() > 1 ? ", " : "") + write_value(value);
  return text + "]";
}
template <class T>
std::string write_value(const std::vector<T>& values) {
  return write_list(values);
}
inline std::string write_value(const PackPaths& value) {
  return value.paths.size() > 1 ? write_list(value.paths) : write_value(value.empty() ? std::string() : value.paths[0]);
}
inline std::string write_value(const std::array<double, 2>& values) { return write_list(values); }

}  // namespace matvlm
