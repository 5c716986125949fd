// A checkpoint directory is always the old one or the new one: existing targets, full disks, killed processes.
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "core/checkpoint/file.h"
#include "tests/checkpoint/sample.h"
#include "tests/checkpoint/scratch.h"

namespace xh {
namespace {

using namespace test;  // NOLINT: the helpers of this directory

WriteOptions Replacing() {
  WriteOptions options;
  options.replace = true;
  options.shard_bytes = 4096;  // several shards, hence more steps
  return options;
}

std::vector<std::string> OnlyTarget() { return {"a.xhy"}; }

// What the hook does at a step, counted down to 0.
struct Plan {
  int steps_left = -1;
  int reason = 0;  // errno of the failing step; 0: the process is killed
  bool no_exchange = false;
  bool failed = false;
  std::string failed_call;
};
Plan plan;

int FollowPlan(const char* call) {
  if (plan.no_exchange && std::string(call) == "exchange") return EINVAL;
  if (plan.steps_left-- != 0) return 0;
  if (plan.reason == 0) ::kill(::getpid(), SIGKILL);
  plan.failed = true;
  plan.failed_call = call;
  return plan.reason;
}

class Hooked {
 public:
  explicit Hooked(const Plan& with) {
    plan = with;
    SetStorageHook(FollowPlan);
  }
  ~Hooked() { SetStorageHook(nullptr); }
};

// Runs `body` in a child process; its exit status, or -1 when it was killed.
template <typename Body>
int InChild(Body body) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body());
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(AtomicTest, AnExistingTargetIsKeptUnlessReplaceIsPassed) {
  Scratch scratch;
  ASSERT_OK(WriteSample(scratch / "a.xhy", 1));
  EXPECT_TRUE(Fails(WriteSample(scratch / "a.xhy", 2), XH_INVALID_STATE, "exists; pass replace"));
  EXPECT_OK(CheckSample(scratch / "a.xhy", 1));
  ASSERT_OK(WriteSample(scratch / "a.xhy/", 2, Replacing()));
  EXPECT_OK(CheckSample(scratch / "a.xhy", 2));
  EXPECT_EQ(List(scratch.path()), OnlyTarget());
}

TEST(AtomicTest, ReplaceWithoutATargetWritesIt) {
  Scratch scratch;
  ASSERT_OK(WriteSample(scratch / "a.xhy", 2, Replacing()));
  EXPECT_OK(CheckSample(scratch / "a.xhy", 2));
}

TEST(AtomicTest, ReplaceNeverRemovesWhatIsNotACheckpoint) {
  Scratch scratch;
  std::filesystem::create_directory(scratch / "home");
  WriteBytes(scratch / "home/letter.txt", "dear");
  EXPECT_TRUE(Fails(WriteSample(scratch / "home", 1, Replacing()), XH_INVALID_STATE, "is not a checkpoint"));
  EXPECT_EQ(ReadBytes(scratch / "home/letter.txt"), "dear");
  WriteBytes(scratch / "file", "dear");
  EXPECT_TRUE(Fails(WriteSample(scratch / "file", 1, Replacing()), XH_INVALID_STATE, "is not a checkpoint"));
  ASSERT_OK(WriteSample(scratch / "a.xhy", 1));
  std::filesystem::create_directory_symlink("a.xhy", scratch / "link.xhy");
  EXPECT_TRUE(Fails(WriteSample(scratch / "link.xhy", 2, Replacing()), XH_INVALID_STATE, "is not a checkpoint"));
  std::filesystem::create_directory(scratch / "empty.xhy");
  EXPECT_OK(WriteSample(scratch / "empty.xhy", 1, Replacing()));
}

TEST(AtomicTest, ATargetThatAppearsMeanwhileIsNotReplaced) {
  Scratch scratch;
  auto slow = CheckpointWriter::Open(scratch / "a.xhy");
  ASSERT_OK(slow.status());
  ASSERT_EQ(InChild([&] { return WriteSample(scratch / "a.xhy", 1).ok() ? 0 : 1; }), 0);
  EXPECT_TRUE(Fails((*slow)->Commit(), XH_INVALID_STATE, "appeared while"));
  EXPECT_OK(CheckSample(scratch / "a.xhy", 1));
  EXPECT_EQ(List(scratch.path()), OnlyTarget());
}

TEST(AtomicTest, PathsWithoutANameOrAParentAreRefused) {
  Scratch scratch;
  for (const char* path : {"", "/", ".", "..", "///"}) {
    EXPECT_TRUE(Fails(WriteSample(path, 1), XH_INVALID_ARGUMENT, "does not end with a name")) << path;
  }
  EXPECT_TRUE(Fails(WriteSample(scratch / "..", 1), XH_INVALID_ARGUMENT, "does not end with a name"));
  EXPECT_TRUE(Fails(WriteSample(scratch / "absent/a.xhy", 1), XH_NOT_FOUND, "absent: No such file"));
  EXPECT_TRUE(Fails(WriteSample("/proc/a.xhy", 1), XH_NOT_FOUND, "cannot create directory /proc/.a.xhy.tmp-"));
  WriteBytes(scratch / "file", "x");
  EXPECT_TRUE(Fails(WriteSample(scratch / "file/a.xhy", 1), XH_IO, "Not a directory"));
}

TEST(AtomicTest, AReadOnlyParentGivesTheSystemsReason) {
  Scratch scratch;
  std::filesystem::create_directory(scratch / "locked");
  ASSERT_EQ(::chmod(scratch.path().c_str(), 0755), 0);
  ASSERT_EQ(::chmod((scratch / "locked").c_str(), 0555), 0);
  const auto body = [&] {
    if (::geteuid() == 0 && ::setuid(65534) != 0) return 2;  // permissions do not bind root
    return Fails(WriteSample(scratch / "locked/a.xhy", 1), XH_IO,
                 "tmp-" + std::to_string(::getpid()) + ": Permission denied")
               ? 0
               : 1;
  };
  EXPECT_EQ(InChild(body), 0);
}

TEST(AtomicTest, AnUncommittedWriterLeavesNothing) {
  Scratch scratch;
  {
    auto writer = CheckpointWriter::Open(scratch / "a.xhy");
    ASSERT_OK(writer.status());
    EXPECT_EQ(List(scratch.path()), std::vector<std::string>{".a.xhy.tmp-" + std::to_string(::getpid())});
    EXPECT_TRUE(Fails(CheckpointWriter::Open(scratch / "a.xhy").status(), XH_INVALID_STATE, "another writer"));
    EXPECT_OK(CheckpointWriter::Open(scratch / "b.xhy").status());
  }
  EXPECT_TRUE(List(scratch.path()).empty());
}

TEST(AtomicTest, LeftoversOfDeadWritersAreRemovedAndThoseOfLiveOnesAreNot) {
  Scratch scratch;
  const std::string dead = ".a.xhy.tmp-" + std::to_string(InChild([] { return 0; }) + 4194305);  // above pid_max
  const std::string live = ".a.xhy.tmp-1";
  const std::string reused = ".a.xhy.tmp-" + std::to_string(::getpid());  // our id, left by an earlier process
  for (const std::string& name : {dead, live, reused, std::string(".a.xhy.tmp-x"), std::string(".b.xhy.tmp-4194305")}) {
    std::filesystem::create_directory(scratch / name);
    WriteBytes(scratch / name + "/tensors-00000.bin", "half");
  }
  ASSERT_OK(WriteSample(scratch / "a.xhy", 1));
  EXPECT_EQ(List(scratch.path()), (std::vector<std::string>{live, ".a.xhy.tmp-x", ".b.xhy.tmp-4194305", "a.xhy"}));
}

TEST(FullDiskTest, AFileSizeLimitLeavesTheOldCheckpointAndNoRest) {
  Scratch scratch;
  ASSERT_OK(WriteSample(scratch / "a.xhy", 1));
  const auto body = [&] {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {100000, 100000};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return 2;
    auto writer = CheckpointWriter::Open(scratch / "a.xhy", Replacing());
    if (!writer.ok()) return 3;
    const std::vector<float> values = Ramp(50000, 0);
    const Status full = (*writer)->AddTensor("w", XH_F32, {50000}, values.data());
    if (!Fails(full, XH_IO, "tensors-00000.bin: File too large")) return 4;
    if (List(scratch.path()) != OnlyTarget()) return 5;  // its space is free at once
    if ((*writer)->Commit() != full) return 6;
    return CheckSample(scratch / "a.xhy", 1).ok() ? 0 : 7;
  };
  EXPECT_EQ(InChild(body), 0);
  EXPECT_OK(CheckSample(scratch / "a.xhy", 1));
}

// Each storage call in turn fails with ENOSPC. Returns the number of calls.
int FailAtEveryStep(bool old_exists, bool no_exchange) {
  for (int step = 0;; ++step) {
    Scratch scratch;
    const std::string path = scratch / "a.xhy";
    if (old_exists) {
      EXPECT_OK(WriteSample(path, 1, Replacing()));
    }
    Status status;
    {
      Hooked hooked({step, ENOSPC, no_exchange, false, ""});
      status = WriteSample(path, 2, Replacing());
    }
    if (!plan.failed) {
      EXPECT_OK(status);
      EXPECT_OK(CheckSample(path, 2));
      return step;
    }
    if (plan.failed_call == "remove") {  // the new one is in place; the old one goes with the next writer
      EXPECT_OK(status);
      EXPECT_OK(CheckSample(path, 2));
    } else {
      EXPECT_TRUE(Fails(status, XH_IO, "No space left on device")) << step << " " << plan.failed_call;
      const bool in_place = std::string(status.message()).find("is in place") != std::string::npos;
      if (old_exists || in_place) {
        EXPECT_OK(CheckSample(path, in_place ? 2 : 1));
      }
      if (!in_place) {
        EXPECT_EQ(List(scratch.path()), old_exists ? OnlyTarget() : std::vector<std::string>{}) << step;
      }
    }
    EXPECT_OK(WriteSample(path, 3, Replacing()));
    EXPECT_OK(CheckSample(path, 3));
    EXPECT_EQ(List(scratch.path()), OnlyTarget()) << step;
  }
}

TEST(FullDiskTest, AFailureOfAnyStorageCallLosesNothing) {
  EXPECT_GT(FailAtEveryStep(false, false), 15);
  EXPECT_GT(FailAtEveryStep(true, false), 15);
  EXPECT_GT(FailAtEveryStep(true, true), 16);
}

// A process is killed before each storage call in turn. Returns the number of calls.
int KillAtEveryStep(bool old_exists, bool no_exchange) {
  for (int step = 0;; ++step) {
    Scratch scratch;
    const std::string path = scratch / "a.xhy";
    if (old_exists) {
      EXPECT_OK(WriteSample(path, 1, Replacing()));
    }
    const int exit_status = InChild([&] {
      Hooked hooked({step, 0, no_exchange, false, ""});
      return WriteSample(path, 2, Replacing()).ok() ? 0 : 1;
    });
    EXPECT_NE(exit_status, 1) << step;
    const Status is_new = CheckSample(path, 2);
    if (!is_new.ok() && old_exists) {
      EXPECT_OK(CheckSample(path, 1)) << step;
    }
    if (!is_new.ok() && !old_exists) {
      EXPECT_EQ(CodeOf(CheckpointReader::Open(path).status()), XH_NOT_FOUND) << step;
    }
    EXPECT_OK(WriteSample(path, 3, Replacing()));
    EXPECT_OK(CheckSample(path, 3));
    EXPECT_EQ(List(scratch.path()), OnlyTarget()) << step;
    if (exit_status == 0) {
      EXPECT_OK(is_new);
      return step;
    }
  }
}

TEST(CrashTest, AKilledWriterLeavesTheOldCheckpointOrTheNewOne) {
  EXPECT_GT(KillAtEveryStep(false, false), 15);
  EXPECT_GT(KillAtEveryStep(true, false), 15);
  EXPECT_GT(KillAtEveryStep(true, true), 16);  // two renames: between them the reader finds the old one aside
}

TEST(CrashTest, ANewWriterPutsBackWhatAnInterruptedReplacementSetAside) {
  Scratch scratch;
  ASSERT_OK(WriteSample(scratch / "a.xhy", 1));
  std::filesystem::rename(scratch / "a.xhy", scratch / ".a.xhy.old");
  EXPECT_OK(CheckSample(scratch / "a.xhy", 1));
  EXPECT_TRUE(Fails(WriteSample(scratch / "a.xhy", 2), XH_INVALID_STATE, "exists; pass replace"));
  EXPECT_EQ(List(scratch.path()), OnlyTarget());
}

}  // namespace
}  // namespace xh
