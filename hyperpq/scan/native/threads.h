// Threads for one call.
#pragma once

#include <cstddef>
#include <exception>
#include <thread>
#include <vector>

namespace hyperpq {

// Runs work(0) to work(n - 1), the last one in this thread and each other in a new one.
template <class Work>
void in_threads(size_t n, Work work) {
  std::vector<std::exception_ptr> errors(n);
  const auto guarded = [&](size_t i) {
    try {
      work(i);
    } catch (...) {
      errors[i] = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  size_t started = 0;
  try {
    for (; started + 1 < n; ++started) threads.emplace_back(guarded, started);
  } catch (...) {  // No more threads can be started: this one does the rest.
  }
  for (size_t i = started; i < n; ++i) guarded(i);
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

}  // namespace hyperpq
