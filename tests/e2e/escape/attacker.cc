// A program that tries to leave a shared directory from inside of a guest:
//   wyvern-escape DIR SECONDS TOKEN INODES WAY...
// DIR is the share. What lies outside has TOKEN in the name or the content of every file, the inode
// numbers INODES (with commas), and below each WAY the names f, e and e/f. WAYs are what symlinks
// lead to. While threads exchange directories and files of DIR with such links, others open, read,
// write, make, move and remove what the names lead to just then, with and without O_NOFOLLOW, by
// chains of openat with .., from a working directory, and again by /proc/self/fd; the kernel's caches
// are dropped all the while.
// Prints "ESCAPE what" for each piece of the outside that is seen, then the counts; exit code 1 after
// an escape. Whoever runs it looks at the outside afterwards: what was written there is not seen here.
#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/fd.h"

namespace {

using wyvern::UniqueFd;

constexpr long kFuseMagic = 0x65735546;  // FUSE_SUPER_MAGIC, statfs(2)
constexpr char kMark[] = "the guest was here";

struct Counters {
  std::atomic<uint64_t> exchanges{0};
  std::atomic<uint64_t> opened{0};
  std::atomic<uint64_t> refused{0};
  std::atomic<uint64_t> read{0};
  std::atomic<uint64_t> listed{0};
  std::atomic<uint64_t> written{0};
  std::atomic<uint64_t> changed{0};
  std::atomic<uint64_t> forgotten{0};
  std::atomic<uint64_t> escapes{0};
};

class Attack {
 public:
  Attack(std::string token, std::set<ino_t> outside, std::vector<std::string> ways)
      : token_(std::move(token)), outside_(std::move(outside)), ways_(std::move(ways)) {}

  // In DIR, which is the working directory. Others may rename there already.
  bool Prepare() {
    for (int attempt = 0; attempt < 1000; ++attempt) {
      Restore();
      if (KindOf("d/e/f") == S_IFREG && KindOf(Link("ld", ways_.size() - 1)) == S_IFLNK) {
        return true;
      }
    }
    return false;
  }

  void Run(std::chrono::seconds time) {
    const std::function<void(uint64_t)> roles[] = {
        [this](uint64_t round) { Swap(round); },     [this](uint64_t round) { Walk(round); },
        [this](uint64_t round) { Swap(round + 1); }, [this](uint64_t round) { Make(round); },
        [this](uint64_t round) { Again(round); },    [this](uint64_t round) { Linger(round); },
        [this](uint64_t /*round*/) { Forget(); }};
    std::vector<std::thread> threads;
    std::atomic<bool> end{false};
    for (const auto& role : roles) {
      threads.emplace_back([&end, &role] {
        for (uint64_t round = 0; !end; ++round) {
          role(round);
        }
      });
    }
    std::this_thread::sleep_for(time);
    end = true;
    for (std::thread& thread : threads) {
      thread.join();
    }
  }

  const Counters& counters() const { return counters_; }

 private:
  static std::string Link(const char* kind, size_t i) { return kind + std::to_string(i); }

  // Link i of each kind leads by way i to what has the same name outside.
  void MakeLinks(size_t i) {
    const std::string up = ways_[i].starts_with('/') ? ways_[i] : "../" + ways_[i];
    Note(::symlink(ways_[i].c_str(), Link("ld", i).c_str()));
    Note(::symlink((ways_[i] + "/f").c_str(), Link("lf", i).c_str()));
    Note(::symlink((up + "/e").c_str(), ("d/" + Link("le", i)).c_str()));
  }

  // A change that was tried: those that succeeded are counted.
  void Note(int result) { counters_.changed += result == 0 ? 1 : 0; }

  void Escape(const char* how, const std::string& what) {
    if (counters_.escapes++ < 200) {
      std::printf("ESCAPE %s: %s\n", how, what.c_str());
    }
  }

  static void Exchange(const std::string& a, const std::string& b) {
    ::syscall(SYS_renameat2, AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE);
  }

  // Each name is a link for as long as an exchange takes, then what it was.
  void Swap(uint64_t round) {
    const size_t i = round % ways_.size();
    const std::pair<std::string, std::string> pairs[] = {
        {"d", Link("ld", i)}, {"d/e", "d/" + Link("le", i)}, {"f", Link("lf", i)}, {"d", "x"}};
    const auto& [name, other] = pairs[round / ways_.size() % std::size(pairs)];
    Exchange(name, other);
    Exchange(name, other);
    counters_.exchanges += 2;
    if (round % 64 == 0) {
      Restore();
    }
  }

  static mode_t KindOf(const std::string& name) {
    struct stat stat {};

    return ::lstat(name.c_str(), &stat) == 0 ? stat.st_mode & S_IFMT : 0;
  }

  // Exchanges that met leave links and directories in each other's places: what stays so attacks
  // nobody.
  void Restore() {
    for (size_t i = 0; i < ways_.size(); ++i) {
      for (const auto& [link, name] : {std::pair{Link("ld", i), "d"}, {Link("lf", i), "f"}}) {
        if (KindOf(link) != S_IFLNK && KindOf(link) != 0) {
          if (KindOf(name) == S_IFLNK) {
            Exchange(link, name);
          } else {
            ::rename(link.c_str(), ("t" + std::to_string(trash_++)).c_str());
          }
        }
      }
    }
    for (const char* name : {"d", "x"}) {
      if (KindOf(name) != S_IFDIR) {
        ::unlink(name);
        ::mkdir(name, 0777);
      }
      ::mkdir((name + std::string("/e")).c_str(), 0777);
    }
    for (size_t i = 0; i < ways_.size(); ++i) {
      MakeLinks(i);
    }
    for (const char* name : {"f", "d/f", "d/e/f"}) {
      const UniqueFd file(::open(name, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666));
      Mark(file.get());
    }
  }

  // A file or directory that was reached: is it one of the outside?
  void Judge(const char* how, int fd) {
    if (fd < 0) {
      ++counters_.refused;
      return;
    }
    ++counters_.opened;

    struct stat stat {};

    struct statfs system {};

    if (::fstat(fd, &stat) != 0) {
      return;
    }
    // The numbers are those of the share's file system; others in the container have their own.
    const bool shared = ::fstatfs(fd, &system) == 0 && system.f_type == kFuseMagic;
    if (shared && outside_.contains(stat.st_ino)) {
      Escape(how, "inode " + std::to_string(stat.st_ino));
    }
    if (S_ISDIR(stat.st_mode)) {
      JudgeNames(how, fd, shared);
    } else if (S_ISREG(stat.st_mode)) {
      JudgeBytes(how, fd);
    }
  }

  void JudgeBytes(const char* how, int fd) {
    std::array<char, 4096> bytes{};
    const ssize_t got = ::pread(fd, bytes.data(), bytes.size(), 0);
    if (got > 0) {
      ++counters_.read;
      if (std::string_view(bytes.data(), static_cast<size_t>(got)).find(token_) !=
          std::string_view::npos) {
        Escape(how, "content");
      }
    }
    void* page = ::mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
    if (page != MAP_FAILED) {
      ::munmap(page, 4096);
    }
  }

  void JudgeNames(const char* how, int fd, bool shared) {
    alignas(dirent64) std::array<char, 8192> entries{};
    const UniqueFd list(::openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    const ssize_t got =
        list.valid() ? ::getdents64(list.get(), entries.data(), entries.size()) : -1;
    counters_.listed += got > 0 ? 1 : 0;
    for (ssize_t at = 0; at < got;) {
      const auto* entry = reinterpret_cast<const dirent64*>(entries.data() + at);
      const std::string_view name(entry->d_name);
      if (name.find(token_) != std::string_view::npos) {
        Escape(how, "name " + std::string(name));
      }
      if (shared && name != ".." && outside_.contains(entry->d_ino)) {
        Escape(how, "listed inode of " + std::string(name));
      }
      at += entry->d_reclen;
    }
  }

  static std::string LinkTo(const UniqueFd& fd) {
    return "/proc/self/fd/" + std::to_string(fd.get());
  }

  // Chains of openat, each step by its own flags.
  void Walk(uint64_t round) {
    static constexpr const char* kChains[][4] = {{"d", "e", "f", nullptr},
                                                 {"d", "e", "..", "f"},
                                                 {"d", "..", "d", "f"},
                                                 {"d", "f", nullptr, nullptr},
                                                 {"f", nullptr, nullptr, nullptr},
                                                 {"x", "e", "..", ".."},
                                                 {"d", "e", "..", ".."},
                                                 {"x", "..", "..", "f"},
                                                 {"d/e/f", nullptr, nullptr, nullptr},
                                                 {"d/../d/e/../f", nullptr, nullptr, nullptr}};
    const auto& chain = kChains[round % std::size(kChains)];
    const int follow = round / 2 % 2 == 0 ? O_NOFOLLOW : 0;
    const int kind = round / 4 % 2 == 0 ? O_PATH : O_RDONLY;
    UniqueFd at(::open(".", O_PATH | O_DIRECTORY | O_CLOEXEC));
    for (const char* step : chain) {
      if (step == nullptr) {
        break;
      }
      at = UniqueFd(::openat(at.get(), step, kind | follow | O_CLOEXEC | O_NONBLOCK));
      Judge("walk", at.get());
      if (!at.valid()) {
        break;
      }
      if (kind == O_PATH) {
        // What was only named so far is read, too.
        const UniqueFd read(::open(LinkTo(at).c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
        Judge("walk", read.get());
      }
    }
  }

  // Names made, moved and removed through what may be a link by now.
  void Make(uint64_t round) {
    const std::string base = round % 3 == 0 ? "d/" : round % 3 == 1 ? "d/e/" : "x/";
    const std::string name = base + "n" + std::to_string(round % 7);
    {
      const UniqueFd file(::open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
      Judge("make", file.get());
      Mark(file.get());
    }
    Note(::mkdir((name + "d").c_str(), 0777));
    Note(::symlink(ways_[0].c_str(), (name + "s").c_str()));
    Note(::link("f", (name + "l").c_str()));
    Note(::link((base + "f").c_str(), "linked"));
    {
      const UniqueFd linked(::open("linked", O_RDWR | O_CLOEXEC | O_NOFOLLOW));
      Judge("link", linked.get());
    }
    Note(::rename((base + "f").c_str(), "moved"));
    {
      const UniqueFd moved(::open("moved", O_RDWR | O_CLOEXEC | O_NOFOLLOW));
      Judge("rename", moved.get());
      Mark(moved.get());
    }
    Note(::rename("moved", (base + "f").c_str()));
    ::rename(name.c_str(), (base + "r").c_str());
    Note(::unlink("linked"));
    for (const char* end : {"s", "l"}) {
      Note(::unlink((name + end).c_str()));
    }
    Note(::rmdir((name + "d").c_str()));
    ::unlink((base + "r").c_str());
    if (::access("d/f", F_OK) != 0) {
      const UniqueFd again(::open("d/f", O_WRONLY | O_CREAT | O_CLOEXEC, 0666));
      Mark(again.get());
    }
  }

  void Mark(int fd) {
    if (fd >= 0 && ::pwrite(fd, kMark, sizeof(kMark) - 1, 0) > 0) {
      ++counters_.written;
    }
  }

  // A name is fixed by O_PATH and opened, changed and read again by its descriptor.
  void Again(uint64_t round) {
    static constexpr const char* kNames[] = {"f", "d/f", "d/e/f", "d", "d/e"};
    const int follow = round % 2 == 0 ? O_NOFOLLOW : 0;
    const UniqueFd path(::open(kNames[round % std::size(kNames)], O_PATH | follow | O_CLOEXEC));
    if (!path.valid()) {
      ++counters_.refused;
      return;
    }
    const std::string link = LinkTo(path);
    const UniqueFd directory(::open(link.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    Judge("again", directory.get());
    const UniqueFd file(::open(link.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK));
    Judge("again", file.get());
    Mark(file.get());
    Note(::chmod(link.c_str(), 0777));
    Note(::truncate(link.c_str(), 3));
    Note(::utimensat(AT_FDCWD, link.c_str(), nullptr, 0));
    Note(::setxattr(link.c_str(), "user.guest", "1", 1, 0));
    Note(::chown(link.c_str(), 7, 7));
  }

  // Stays in a directory that others move (the host out of the share), and looks around from there.
  void Linger(uint64_t round) {
    static constexpr const char* kPlaces[] = {"h/e", "d/e", "h", "x"};
    const UniqueFd place(
        ::open(kPlaces[round % std::size(kPlaces)], O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!place.valid()) {
      ++counters_.refused;
      return;
    }
    for (int turn = 0; turn < 8; ++turn) {
      for (const char* name : {"f", "../f", "../../f", "../e/f", "..", "../..", "../../..", "."}) {
        const UniqueFd found(::openat(place.get(), name, O_RDONLY | O_CLOEXEC | O_NONBLOCK));
        // Above the share is the container's own tree.
        Judge("linger", found.get());
      }
      const UniqueFd made(
          ::openat(place.get(), "g", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666));
      Judge("linger", made.get());
      Mark(made.get());
      ::renameat(place.get(), "g", place.get(), "../g");
      ::unlinkat(place.get(), "../g", 0);
      ::unlinkat(place.get(), "g", 0);
    }
  }

  // What the guest's kernel forgets the server has no descriptor of: it must find it again by name.
  void Forget() {
    const UniqueFd caches(::open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC));
    if (caches.valid() && ::write(caches.get(), "2", 1) == 1) {
      ++counters_.forgotten;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(250));
  }

  const std::string token_;
  const std::set<ino_t> outside_;
  const std::vector<std::string> ways_;
  Counters counters_;
  std::atomic<unsigned> trash_{0};
};

std::set<ino_t> Numbers(const char* text) {
  std::set<ino_t> numbers;
  for (char* at = const_cast<char*>(text); *at != '\0';) {
    numbers.insert(std::strtoull(at, &at, 10));
    at += *at == ',' ? 1 : 0;
  }
  return numbers;
}

}  // namespace

int main(int argc, char** argv) {
  const std::span words(argv, static_cast<size_t>(argc));
  if (words.size() < 6 || ::chdir(words[1]) != 0) {
    std::fprintf(stderr, "wyvern-escape DIR SECONDS TOKEN INODES WAY...\n");
    return 2;
  }
  ::umask(0);
  Attack attack(words[3], Numbers(words[4]), {words.begin() + 5, words.end()});
  if (!attack.Prepare()) {
    std::perror("the tree to attack");
    return 2;
  }
  attack.Run(std::chrono::seconds(std::strtoul(words[2], nullptr, 10)));
  const Counters& counted = attack.counters();
  std::printf(
      "exchanges=%lu opened=%lu refused=%lu read=%lu listed=%lu written=%lu changed=%lu "
      "forgotten=%lu "
      "escapes=%lu\n",
      counted.exchanges.load(), counted.opened.load(), counted.refused.load(), counted.read.load(),
      counted.listed.load(), counted.written.load(), counted.changed.load(),
      counted.forgotten.load(), counted.escapes.load());
  return counted.escapes == 0 ? 0 : 1;
}
