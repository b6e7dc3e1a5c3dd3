// Runs a fuzz target where there is no libFuzzer, which g++ lacks: first the cases kept in
// csrc/fuzz/regressions/<op>/, then inputs generated from a seed.
//
//   <op>_fuzz [--runs N] [--seed S] [FILE...]     with files: these alone
//
// An input under which the target aborts, a sanitizer reports or 5 s of processor time pass fails;
// it is written to <op>_fuzz.failed in the current folder.

#include <fcntl.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "common/isa.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());
extern "C" const char* __tsan_default_options() { return "halt_on_error=1"; }
extern "C" const char* __ubsan_default_options() { return "print_stacktrace=1"; }

namespace {

using Bytes = std::vector<uint8_t>;
constexpr int kMostSeconds = 5;
Bytes current;  // read when the process is about to die
std::string failed_path;

void KeepCurrent() {
  const int file = open(failed_path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (file < 0 || write(file, current.data(), current.size()) < 0) return;
  close(file);
  std::fprintf(stderr, "The input that failed is in %s\n", failed_path.c_str());
}

void OnSignal(int signal) {
  if (signal == SIGPROF) std::fprintf(stderr, "\nBroken: more than %d s.\n", kMostSeconds);
  KeepCurrent();
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void CatchFailures() {
  std::signal(SIGABRT, OnSignal);
  std::signal(SIGPROF, OnSignal);
  if (__sanitizer_set_death_callback != nullptr) {
    __sanitizer_set_death_callback(KeepCurrent);
  } else {
    for (const int signal : {SIGSEGV, SIGBUS, SIGILL, SIGFPE}) std::signal(signal, OnSignal);
  }
}

void RunCurrent() {
  const itimerval limit = {{0, 0}, {kMostSeconds, 0}};
  setitimer(ITIMER_PROF, &limit, nullptr);
  // A copy of its very size, so that reading behind the input is seen too.
  LLVMFuzzerTestOneInput(Bytes(current).data(), current.size());
}

void RunFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    std::fprintf(stderr, "%s cannot be read.\n", path.c_str());
    std::exit(2);
  }
  current.assign(std::istreambuf_iterator<char>(file), {});
  RunCurrent();
}

int RunRegressions() {
  std::vector<std::filesystem::path> paths;
  if (std::filesystem::exists(KVISION_FUZZ_REGRESSIONS)) {
    for (const auto& entry : std::filesystem::directory_iterator(KVISION_FUZZ_REGRESSIONS)) {
      paths.push_back(entry.path());
    }
  }
  std::sort(paths.begin(), paths.end());
  for (const auto& path : paths) RunFile(path);
  return static_cast<int>(paths.size());
}

// Up to 16 words, from which the target goes on by itself.
void Generate(uint64_t seed, int64_t run) {
  std::seed_seq sequence{seed, static_cast<uint64_t>(run)};
  std::minstd_rand random(sequence);
  current.resize(4 * (1 + random() % 16));
  std::generate(current.begin(), current.end(), [&] { return random() >> 8; });
}

}  // namespace

int main(int argc, char** argv) {
  const std::string name = std::filesystem::path(argv[0]).filename();
  const char* isas[] = {"baseline", "avx2", "avx512"};
  int64_t runs = 100000;
  uint64_t seed = 1;
  std::vector<std::string> files;
  for (int i = 1; i < argc; ++i) {
    if (i + 1 < argc && std::strcmp(argv[i], "--runs") == 0) {
      runs = std::atoll(argv[++i]);
    } else if (i + 1 < argc && std::strcmp(argv[i], "--seed") == 0) {
      seed = std::strtoull(argv[++i], nullptr, 10);
    } else {
      files.push_back(argv[i]);
    }
  }
  failed_path = name + ".failed";
  CatchFailures();
  for (const std::string& file : files) RunFile(file);
  if (!files.empty()) return 0;

  const int num_regressions = RunRegressions();
  const auto start = std::chrono::steady_clock::now();
  for (int64_t run = 0; run < runs; ++run) {
    Generate(seed, run);
    RunCurrent();
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::printf("%-18s %-8s %3d cases kept, %7lld inputs of seed %llu: none failed, %.0f a second\n",
              name.c_str(), isas[static_cast<int>(kvision::CurrentIsa())], num_regressions,
              static_cast<long long>(runs), static_cast<unsigned long long>(seed),
              runs / seconds.count());
}
