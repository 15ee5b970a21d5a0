// systemd/testing/fake_systemd.h — a system bus with a systemd on it, as far as scopes go, that does also what neither should do.
// Shape:   listens at a socket of its own; to be given to the code by DBUS_SYSTEM_BUS_ADDRESS, which the fake sets while it lives. A scope's cgroup
//          is made below the root that it is given, plain files or a real hierarchy, and goes when nothing is in it any more.
// Threads: one of its own; the tests' calls are from one thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"

struct DBusMessage;

namespace wyvern::runtime {

class FakeSystemd {
 public:
  // Directories: for the socket; of the cgroups.
  FakeSystemd(std::string directory, std::string cgroup_root);
  ~FakeSystemd();
  FakeSystemd(const FakeSystemd&) = delete;
  FakeSystemd& operator=(const FakeSystemd&) = delete;

  enum class Manner {
    kNever,      // no answer
    kCut,        // the connection ends instead of an answer
    kGarbage,    // bytes that are no message
    kWrongType,  // an answer with a number in it
    kError,      // `error`
  };

  struct Unit {
    std::vector<uint32_t> pids;
    std::map<std::string, std::string>
        properties;  // "MemoryMax": "t 4096", "AllowedCPUs": "ay 03", "Slice": "s a.slice"
    std::string directory;
  };

  // From now on, for calls of this method.
  void Do(const std::string& method, Manner manner, std::string error = {});
  void DoRight(const std::string& method);
  // How the next jobs end; empty: never.
  void EndJobsAs(std::string result);
  // A signal about the job from somebody else comes first, which says that it has failed.
  void LetOthersLie();
  // A unit that is there already; one that is gone by itself after that many tries to start it.
  void Have(const std::string& name, const std::string& description, int until_tries = 1 << 30);

  std::map<std::string, Unit> units() const;
  std::vector<std::string> calls() const;  // methods

 private:
  struct There {
    std::string description;
    int tries = 0;
  };

  void Serve();
  void ServeOne(const UniqueFd& socket);
  bool Authenticate(const UniqueFd& socket, std::string& buffer);  // what comes after it stays
  bool Answer(const UniqueFd& socket, DBusMessage* call);
  bool AnswerRight(const UniqueFd& socket, DBusMessage* call, const std::string& method);
  bool Start(const UniqueFd& socket, DBusMessage* call);
  bool Send(const UniqueFd& socket, DBusMessage* message);
  bool SendError(const UniqueFd& socket, DBusMessage* call, const std::string& name);
  bool SendJobRemoved(const UniqueFd& socket, const std::string& job, const std::string& result,
                      const char* sender);
  void Collect();

  const std::string cgroup_root_;
  UniqueFd listener_;
  std::atomic<bool> stop_{false};
  uint32_t serial_ = 0;
  uint32_t jobs_ = 0;
  mutable std::mutex mu_;  // guards what is below
  std::map<std::string, std::pair<Manner, std::string>> manners_;
  std::string job_result_ = "done";
  bool others_lie_ = false;
  std::map<std::string, There> there_;
  std::map<std::string, Unit> units_;
  std::vector<std::string> calls_;
  std::thread thread_;
};

}  // namespace wyvern::runtime
