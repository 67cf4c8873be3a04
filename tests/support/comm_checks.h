// Checks of a communicator, the same for threads, for MPI and, through staged_comm.h, for NCCL: every collective on
// values whose result is known exactly, on sizes around the borders of parts and segments. A failed check throws an
// Error.
#pragma once

#include <bit>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "core/comm.h"
#include "core/error.h"

namespace matvlm::testing {

// Values of a rank: floats of very different sizes, so that any other order of addition gives other bits.
inline std::vector<float> rank_values(int rank, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    const auto hash = static_cast<uint32_t>((i + 1) * 2654435761LL + (rank + 1) * 40503LL * 97);
    const auto scale = static_cast<float>(1U << ((hash >> 8) % 24)) / 4096.0F;
    values[static_cast<size_t>(i)] = (static_cast<float>(hash % 65521) - 32760.0F) * scale;
  }
  return values;
}

// Whole numbers so small that their sum is exact in every order of addition.
inline std::vector<float> small_integers(int rank, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    values[static_cast<size_t>(i)] = static_cast<float>((i * 31 + (rank + 1) * 1009) % 4099 - 2049);
  }
  return values;
}

// What is checked beyond the results that every communicator gives.
struct CommPromises {
  std::vector<float> (*values)(int rank, int64_t count) = rank_values;  // to be summed
  bool nan_in_max = true;                                               // the maximum with a NaN is NaN
  bool names_mismatches = true;                                         // calls that differ are an Error
};
// NCCL adds in its own order and does not compare calls.
inline constexpr CommPromises kNcclPromises{small_integers, false, false};

inline std::vector<float> sum_in_rank_order(int ranks, int64_t count, const CommPromises& promises) {
  std::vector<float> sum = promises.values(0, count);
  for (int r = 1; r < ranks; ++r) {
    const std::vector<float> values = promises.values(r, count);
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += values[i];
  }
  return sum;
}

inline void check_same_bits(const std::string& what, const std::vector<float>& found,
                            const std::vector<float>& expected) {
  check(found.size() == expected.size(), what, ": found ", found.size(), " values, expected ", expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    if (std::bit_cast<uint32_t>(found[i]) != std::bit_cast<uint32_t>(expected[i])) {
      fail(what, ": found ", found[i], " at ", i, ", expected ", expected[i]);
    }
  }
}

// Small and large algorithm, and sizes that no number of ranks divides.
inline const std::vector<int64_t>& comm_sizes() {
  static const std::vector<int64_t> sizes = {0, 1, 2, 3, 5, 1023, 4096, 4097, 10007};
  return sizes;
}

// More than one segment of messages.
inline constexpr int64_t kLargeCommSize = (1 << 20) + 4097;

inline void check_all_reduce(Comm& comm, const CommPromises& promises) {
  const auto check_size = [&](int64_t count) {
    std::vector<float> values = promises.values(comm.rank(), count);
    comm.all_reduce_sum(values);
    check_same_bits(cat("all_reduce_sum of ", count), values, sum_in_rank_order(comm.size(), count, promises));
  };
  for (const int64_t count : comm_sizes()) check_size(count);
  check_size(kLargeCommSize);
  const int n = comm.size();
  std::vector<double> doubles = {0.5 * comm.rank(), -1.0, 0x1p996};
  comm.all_reduce_sum(doubles);
  check(doubles == std::vector<double>{0.25 * n * (n - 1), -1.0 * n, 0x1p996 * n}, "all_reduce_sum of doubles");
  std::vector<int64_t> integers = {comm.rank() + 1, (int64_t{1} << 40) + 1};
  comm.all_reduce_sum(integers);
  check(integers == std::vector<int64_t>{int64_t{n} * (n + 1) / 2, n * ((int64_t{1} << 40) + 1)},
        "all_reduce_sum of int64");
  std::vector<float> maxima = {static_cast<float>(comm.rank()), static_cast<float>(-comm.rank()), 7.0F};
  comm.all_reduce_max(maxima);
  check(maxima == std::vector<float>{static_cast<float>(n - 1), 0.0F, 7.0F}, "all_reduce_max of floats");
  std::vector<int64_t> largest = {comm.rank() == 0 ? std::numeric_limits<int64_t>::max() : comm.rank()};
  comm.all_reduce_max(largest);
  check(largest[0] == std::numeric_limits<int64_t>::max(), "all_reduce_max of int64");
  for (int culprit = 0; culprit < n && promises.nan_in_max; ++culprit) {
    std::vector<double> value = {comm.rank() == culprit ? std::nan("") : 1.0};
    comm.all_reduce_max(value);
    check(std::isnan(value[0]), "all_reduce_max: the NaN of rank ", culprit, " was lost");
  }
}

inline void check_scatter_and_gather(Comm& comm, const CommPromises& promises) {
  const int n = comm.size();
  for (const int64_t count : comm_sizes()) {
    const std::vector<float> expected = sum_in_rank_order(n, count * n, promises);
    const auto slice = expected.begin() + comm.rank() * count;
    std::vector<float> all = promises.values(comm.rank(), count * n);
    std::vector<float> own(static_cast<size_t>(count), -1.0F);
    comm.reduce_scatter_sum(all, own);
    check_same_bits(cat("reduce_scatter_sum of ", count), own, std::vector<float>(slice, slice + count));
    check_same_bits("reduce_scatter_sum: its input", all, promises.values(comm.rank(), count * n));
    std::vector<float> gathered(static_cast<size_t>(count * n), -1.0F);
    comm.all_gather(own, gathered);
    check_same_bits(cat("all_gather of ", count), gathered, expected);

    const std::span<float> in_place =
        std::span<float>(all).subspan(static_cast<size_t>(comm.rank() * count), static_cast<size_t>(count));
    comm.reduce_scatter_sum(all, in_place);
    comm.all_gather(in_place, all);
    check_same_bits(cat("reduce_scatter_sum and all_gather in place of ", count), all, expected);
  }
  const std::vector<int64_t> large(kLargeCommSize, comm.rank() + 1);
  std::vector<int64_t> from_all(static_cast<size_t>(kLargeCommSize * n));
  comm.all_gather(large, from_all);
  std::vector<double> doubles(from_all.begin(), from_all.end());
  std::vector<double> sums(kLargeCommSize);
  comm.reduce_scatter_sum(doubles, sums);
  for (const double sum : sums) check(sum == n * (comm.rank() + 1.0), "all_gather and reduce_scatter_sum in segments");
  const std::vector<uint8_t> byte = {static_cast<uint8_t>(200 + comm.rank())};
  std::vector<uint8_t> bytes(static_cast<size_t>(n));
  comm.all_gather(byte, bytes);
  const std::vector<int64_t> integer = {int64_t{1} << (40 + comm.rank())};
  std::vector<int64_t> integers(static_cast<size_t>(n));
  comm.all_gather(integer, integers);
  for (int r = 0; r < n; ++r) {
    check(bytes[static_cast<size_t>(r)] == 200 + r, "all_gather of uint8");
    check(integers[static_cast<size_t>(r)] == int64_t{1} << (40 + r), "all_gather of int64");
  }
}

inline void check_broadcast(Comm& comm) {
  for (int root = 0; root < comm.size(); ++root) {
    for (const int64_t count : comm_sizes()) {
      std::vector<float> values = rank_values(comm.rank(), count);
      comm.broadcast(values, root);
      check_same_bits(cat("broadcast of ", count), values, rank_values(root, count));
    }
    std::vector<uint8_t> bytes(kLargeCommSize, static_cast<uint8_t>(comm.rank() + 1));
    comm.broadcast(bytes, root);
    check(bytes == std::vector<uint8_t>(kLargeCommSize, static_cast<uint8_t>(root + 1)), "broadcast in segments");
    check(broadcast_string(comm, cat("from ", comm.rank()), root) == cat("from ", root), "broadcast_string");
    check(broadcast_string(comm, comm.rank() == root ? "" : "x", root).empty(), "broadcast_string of an empty string");
  }
}

// Requests run beside blocking collectives, in the order of their start, with the same bits.
inline void check_requests(Comm& comm, const CommPromises& promises) {
  const std::vector<int64_t> counts = {1, 5000, (1 << 20) + 5, 17};
  std::vector<std::vector<float>> buckets;
  std::vector<std::unique_ptr<CommRequest>> requests;
  for (const int64_t count : counts) buckets.push_back(promises.values(comm.rank(), count));
  for (std::vector<float>& bucket : buckets) {
    requests.push_back(comm.start_all_reduce_sum(bucket));
    std::vector<int64_t> between = {1};
    comm.all_reduce_sum(between);
    check(between[0] == comm.size(), "a blocking collective between requests");
  }
  for (size_t i = 0; i < counts.size(); ++i) {
    requests[i]->wait();
    requests[i]->wait();
    check_same_bits(cat("request of ", counts[i]), buckets[i], sum_in_rank_order(comm.size(), counts[i], promises));
  }
  std::vector<float> unwaited = promises.values(comm.rank(), 100000);
  comm.start_all_reduce_sum(unwaited).reset();  // the destructor waits
  check_same_bits("a request that nobody waited for", unwaited, sum_in_rank_order(comm.size(), 100000, promises));
}

template <class Action>
std::string comm_error_of(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// Ranks that do not make the same call all get an Error that names both; the communicator stays usable.
inline void check_mismatches(Comm& comm) {
  std::vector<float> wrong(comm.rank() == 1 ? 5 : 4);
  std::string expected = comm.size() == 1 ? "no error"
                                          : "[comm] found all_reduce_sum of 5 float on rank 1, expected all_reduce_sum "
                                            "of 4 float as on rank 0";
  std::string found = comm_error_of([&] { comm.all_reduce_sum(wrong); });
  check(found == expected, "sizes that differ: found '", found, "', expected '", expected, "'");
  found = comm_error_of([&] { comm.start_all_reduce_sum(wrong)->wait(); });
  check(found == expected, "sizes of requests that differ: found '", found, "', expected '", expected, "'");
  if (comm.size() > 1)
    expected = "[comm] found barrier on rank 1, expected broadcast of 4 float from rank 0 as on rank 0";
  found = comm_error_of([&] { comm.rank() == 1 ? comm.barrier() : comm.broadcast(wrong, 0); });
  check(found == expected, "calls that differ: found '", found, "', expected '", expected, "'");
  found = comm_error_of([&] { comm.broadcast(wrong, comm.size()); });
  check(found == cat("[comm] broadcast: found root ", comm.size(), ", expected 0 <= root < ", comm.size()), found);
  std::vector<float> all(static_cast<size_t>(comm.size()) * 2 + 1);
  found = comm_error_of([&] { comm.all_gather(std::vector<float>(2), all); });
  check(found.starts_with("[comm] all_gather: found 2 elements of one rank and "), found);
  comm.barrier();
}

inline void check_comm(Comm& comm, const CommPromises& promises = {}) {
  check_all_reduce(comm, promises);
  check_scatter_and_gather(comm, promises);
  check_broadcast(comm);
  check_requests(comm, promises);
  if (promises.names_mismatches) check_mismatches(comm);
  comm.barrier();
}

}  // namespace matvlm::testing
