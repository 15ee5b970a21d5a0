// What three generations of containerd were recorded to say to a shim, said to ours (testing/transcripts/README.md).
#include <fcntl.h>
#include <google/protobuf/wire_format_lite.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "base/cleanup.h"
#include "base/subprocess.h"
#include "base/testing/must.h"
#include "base/unix_socket.h"
#include "bootstrap/socket.h"
#include "proto/containerd_bootstrap.pb.h"
#include "proto/containerd_options.pb.h"
#include "testing/task_fixture.h"
#include "testing/transcript.h"
#include "ttrpc/frame.h"
#include "ttrpc_wire.pb.h"

namespace wyvern::shim {
namespace {

namespace boot = containerd::runtime::bootstrap::v1;
namespace options_pb = containerd::options;
namespace wire = ttrpc::wire;

// The lite runtime keeps the fields that it does not know, and has no accessor for them.
struct MessagePeek : google::protobuf::MessageLite {
  static const std::string& Unknown(const MessageLite& message) {
    return (message.*(&MessagePeek::_internal_metadata_))
        .unknown_fields<std::string>(google::protobuf::internal::GetEmptyString);
  }
};

bool KnowsFieldsOf(const google::protobuf::MessageLite& message) {
  return MessagePeek::Unknown(message).empty();
}

// Whether we know every field of a message, and of the messages in it.
template <typename M>
bool KnowsAllOf(const M& message) {
  return KnowsFieldsOf(message);
}

template <typename Repeated>
bool KnowsEachOf(const Repeated& messages) {
  return std::all_of(messages.begin(), messages.end(),
                     [](const auto& message) { return KnowsAllOf(message); });
}

bool KnowsAllOf(const pb::Any& any) {
  options_pb::RuncOptions runc;
  options_pb::RuntimeOptions runtime;
  const bool parsed =
      runc.ParseFromString(any.type_url() == "containerd.runc.v1.Options" ? any.value() : "") &&
      runtime.ParseFromString(any.type_url() == "runtimeoptions.v1.Options" ? any.value() : "");
  return parsed && KnowsFieldsOf(any) && KnowsFieldsOf(runc) && KnowsFieldsOf(runtime);
}

bool KnowsAllOf(const wire::Request& request) {
  return KnowsFieldsOf(request) && KnowsEachOf(request.metadata());
}

bool KnowsAllOf(const wire::Response& response) {
  return KnowsFieldsOf(response) && KnowsFieldsOf(response.status());
}

bool KnowsAllOf(const task_pb::CreateTaskRequest& request) {
  return KnowsFieldsOf(request) && KnowsEachOf(request.rootfs()) && KnowsAllOf(request.options());
}

bool KnowsAllOf(const task_pb::ExecProcessRequest& request) {
  return KnowsFieldsOf(request) && KnowsAllOf(request.spec());
}

bool KnowsAllOf(const task_pb::UpdateTaskRequest& request) {
  return KnowsFieldsOf(request) && KnowsAllOf(request.resources());
}

bool KnowsAllOf(const boot::BootstrapParams& params) {
  return KnowsFieldsOf(params) &&
         std::all_of(params.extensions().begin(), params.extensions().end(), [](const auto& each) {
           return KnowsFieldsOf(each) && KnowsAllOf(each.value());
         });
}

template <typename M>
bool ParsesAndIsKnown(const std::string& bytes) {
  M message;
  return message.ParseFromString(bytes) && KnowsAllOf(message);
}

template <typename M>
M Parse(const std::string& bytes) {
  M message;
  EXPECT_TRUE(message.ParseFromString(bytes));
  return message;
}

using Reader = bool (*)(const std::string& bytes);

struct Readers {
  Reader request;
  Reader answer;
};

template <typename Req, typename Resp>
constexpr Readers ReadersOf() {
  return {&ParsesAndIsKnown<Req>, &ParsesAndIsKnown<Resp>};
}

const std::map<std::string, Readers>& MethodReaders() {
  static const std::map<std::string, Readers> readers = {
      {"State", ReadersOf<task_pb::StateRequest, task_pb::StateResponse>()},
      {"Create", ReadersOf<task_pb::CreateTaskRequest, task_pb::CreateTaskResponse>()},
      {"Start", ReadersOf<task_pb::StartRequest, task_pb::StartResponse>()},
      {"Delete", ReadersOf<task_pb::DeleteRequest, task_pb::DeleteResponse>()},
      {"Pids", ReadersOf<task_pb::PidsRequest, task_pb::PidsResponse>()},
      {"Pause", ReadersOf<task_pb::PauseRequest, pb::Empty>()},
      {"Resume", ReadersOf<task_pb::ResumeRequest, pb::Empty>()},
      {"Checkpoint", ReadersOf<task_pb::CheckpointTaskRequest, pb::Empty>()},
      {"Kill", ReadersOf<task_pb::KillRequest, pb::Empty>()},
      {"Exec", ReadersOf<task_pb::ExecProcessRequest, pb::Empty>()},
      {"ResizePty", ReadersOf<task_pb::ResizePtyRequest, pb::Empty>()},
      {"CloseIO", ReadersOf<task_pb::CloseIORequest, pb::Empty>()},
      {"Update", ReadersOf<task_pb::UpdateTaskRequest, pb::Empty>()},
      {"Wait", ReadersOf<task_pb::WaitRequest, task_pb::WaitResponse>()},
      {"Stats", ReadersOf<task_pb::StatsRequest, task_pb::StatsResponse>()},
      {"Connect", ReadersOf<task_pb::ConnectRequest, task_pb::ConnectResponse>()},
      {"Shutdown", ReadersOf<task_pb::ShutdownRequest, pb::Empty>()},
  };
  return readers;
}

// The numbers of the fields that a message has.
std::set<int> FieldsOf(const std::string& bytes) {
  using google::protobuf::internal::WireFormatLite;
  google::protobuf::io::CodedInputStream in(reinterpret_cast<const uint8_t*>(bytes.data()),
                                            static_cast<int>(bytes.size()));
  std::set<int> fields;
  for (uint32_t tag = in.ReadTag(); tag != 0; tag = in.ReadTag()) {
    fields.insert(WireFormatLite::GetTagFieldNumber(tag));
    EXPECT_TRUE(WireFormatLite::SkipField(&in, tag));
  }
  return fields;
}

// containerd was content with `recorded`: what is in that must be in ours.
void ExpectFieldsOf(const std::string& recorded, const std::string& ours) {
  const std::set<int> have = FieldsOf(ours);
  for (const int field : FieldsOf(recorded)) {
    EXPECT_TRUE(have.contains(field)) << "field " << field << " is missing";
  }
}

struct WireFrame {
  ttrpc::FrameHeader header;
  std::string data;
};

std::vector<WireFrame> FramesOf(const std::string& bytes) {
  std::vector<WireFrame> frames;
  ttrpc::FrameParser parser({.on_frame =
                                 [&](const ttrpc::FrameHeader& header, std::string data) {
                                   frames.push_back({header, std::move(data)});
                                 },
                             .on_oversize = [](const ttrpc::FrameHeader&) { FAIL(); }});
  parser.Feed(std::as_bytes(std::span(bytes)));
  EXPECT_TRUE(parser.AtFrameBoundary());
  return frames;
}

WireFrame FrameOf(const std::string& bytes) {
  std::vector<WireFrame> frames = FramesOf(bytes);
  WV_CHECK(frames.size() == 1);
  return std::move(frames[0]);
}

// A directory at a path as long as the recorded one.
std::string MakeHome() {
  std::string path = kRecordedHome;
  WV_CHECK(mkdtemp(path.data()) != nullptr);
  return path;
}

void WriteBundle(const std::string& bundle, const std::vector<std::string>& args) {
  std::filesystem::create_directories(bundle + "/rootfs");
  const nlohmann::json spec = {
      {"ociVersion", "1.0.2"},
      {"process", {{"args", args}, {"cwd", "/"}, {"env", {"PATH=/usr/bin:/bin"}}}}};
  WV_CHECK(WriteFile(bundle + "/config.json", spec.dump()).has_value());
}

std::string NameOf(const std::string& path) {
  std::string name = std::filesystem::path(path).parent_path().filename().string() + "_" +
                     std::filesystem::path(path).stem().string();
  std::replace_if(
      name.begin(), name.end(), [](char c) { return isalnum(static_cast<unsigned char>(c)) == 0; },
      '_');
  return name;
}

std::vector<std::string> AllFiles(const std::string& suffix) {
  std::vector<std::string> all;
  for (const std::string& version : TranscriptVersions(WV_TRANSCRIPTS)) {
    const auto files = TranscriptFiles(WV_TRANSCRIPTS, version, suffix);
    all.insert(all.end(), files.begin(), files.end());
  }
  return all;
}

std::string ParamName(const ::testing::TestParamInfo<std::string>& info) {
  return NameOf(info.param);
}

// The parameter is the file of a shim's first connection; the others follow it.
class TranscriptTest : public TaskFixture, public ::testing::WithParamInterface<std::string> {
 protected:
  TranscriptTest() : home_(MakeHome()) { ignore_rootfs_ = true; }

  TranscriptTest(const TranscriptTest&) = delete;
  TranscriptTest& operator=(const TranscriptTest&) = delete;

  ~TranscriptTest() override {
    service_->Terminate();  // else a failed test's readers would wait for processes that run
    readers_.clear();
    std::error_code error;
    std::filesystem::remove_all(home_, error);
  }

  // One connection, from its first byte to its end. False when there is no such file.
  bool Play(const std::string& path) {
    if (access(path.c_str(), R_OK) != 0) {
      return false;
    }
    const Transcript transcript = ReadTranscript(path, home_);
    if (const auto init = transcript.words.find("init"); init != transcript.words.end()) {
      init_ = init->second;
    }
    const UniqueFd socket = Must(ConnectUnix(dir_ / "shim.sock"));
    const timeval patience{.tv_sec = 20, .tv_usec = 0};
    EXPECT_EQ(setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
    asked_.clear();
    answered_.clear();
    recorded_.clear();
    for (const Spoken& spoken : transcript.spoken) {
      if (const WireFrame frame = FrameOf(spoken.bytes); !spoken.by_containerd) {
        recorded_[frame.header.stream_id] = Parse<wire::Response>(frame.data);
      }
    }
    for (const Spoken& spoken : transcript.spoken) {
      SCOPED_TRACE(path + ": " + spoken.comment);
      const WireFrame frame = FrameOf(spoken.bytes);
      if (spoken.by_containerd) {
        Prepare(frame);
        EXPECT_TRUE(WriteAll(socket, spoken.bytes));
      } else {
        Compare(frame, AwaitAnswer(socket, frame.header.stream_id));
      }
      if (HasFatalFailure() || HasNonfatalFailure()) {
        return true;
      }
    }
    return true;
  }

  std::string home_;
  std::set<std::string> methods_;  // all that were called
  std::set<std::string> services_;

 private:
  // What the client of the recorded containerd had made before it asked; and the request itself is looked at.
  void Prepare(const WireFrame& frame) {
    EXPECT_EQ(frame.header.type, static_cast<uint8_t>(ttrpc::FrameType::kRequest));
    EXPECT_EQ(frame.header.flags, 0);
    EXPECT_TRUE(ParsesAndIsKnown<wire::Request>(frame.data));
    const auto request = Parse<wire::Request>(frame.data);
    asked_[frame.header.stream_id] = request.method();
    methods_.insert(request.method());
    services_.insert(request.service());
    const auto readers = MethodReaders().find(request.method());
    ASSERT_NE(readers, MethodReaders().end()) << "a method we do not know";
    EXPECT_TRUE(readers->second.request(request.payload())) << "a field we do not know";
    if (request.method() == "Create") {
      const auto create = Parse<task_pb::CreateTaskRequest>(request.payload());
      EXPECT_EQ(create.rootfs_size(), 1);
      WriteBundle(create.bundle(), init_);
      MakeFifos(create);
    } else if (request.method() == "State") {
      AwaitRecordedEnd(frame.header.stream_id, Parse<task_pb::StateRequest>(request.payload()));
    } else if (request.method() == "Exec") {
      MakeFifos(Parse<task_pb::ExecProcessRequest>(request.payload()));
    }
  }

  // The client of the recorded containerd let some time pass after a Kill before it looked.
  void AwaitRecordedEnd(uint32_t stream, const task_pb::StateRequest& request) {
    const auto then = Parse<task_pb::StateResponse>(recorded_[stream].payload());
    for (int i = 0; then.status() == task_pb::STOPPED && i < 1000; ++i) {
      const auto now = State(request.id(), request.exec_id());
      if (!now || now->status() == task_pb::STOPPED) {
        return;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }

  template <typename Request>
  void MakeFifos(const Request& request) {
    for (const std::string& path : {request.stdin(), request.stdout(), request.stderr()}) {
      if (path.empty()) {
        continue;
      }
      ASSERT_TRUE(path.starts_with(home_)) << path;
      std::filesystem::create_directories(std::filesystem::path(path).parent_path());
      ASSERT_EQ(mkfifo(path.c_str(), 0700), 0) << path;
      if (path != request.stdin()) {
        readers_.push_back(std::make_unique<FifoReader>(path));
      }
    }
  }

  std::string AwaitAnswer(FdRef socket, uint32_t stream) {
    while (!answered_.contains(stream)) {
      std::array<std::byte, ttrpc::kHeaderSize> head{};
      if (!ReadExact(socket, head)) {
        ADD_FAILURE() << "no answer";
        return {};
      }
      const ttrpc::FrameHeader header = ttrpc::DecodeHeader(head);
      std::string data(header.length, '\0');
      EXPECT_TRUE(data.empty() || ReadExact(socket, std::as_writable_bytes(std::span(data))));
      EXPECT_EQ(header.type, static_cast<uint8_t>(ttrpc::FrameType::kResponse));
      EXPECT_EQ(header.flags, 0);
      EXPECT_TRUE(asked_.contains(header.stream_id));
      EXPECT_TRUE(answered_.emplace(header.stream_id, std::move(data)).second) << "twice";
    }
    return answered_[stream];
  }

  void Compare(const WireFrame& recorded, const std::string& ours) {
    EXPECT_TRUE(ParsesAndIsKnown<wire::Response>(recorded.data));
    EXPECT_TRUE(ParsesAndIsKnown<wire::Response>(ours));
    const auto expected = Parse<wire::Response>(recorded.data);
    const auto answer = Parse<wire::Response>(ours);
    const std::string& method = asked_[recorded.header.stream_id];
    EXPECT_EQ(answer.status().code(), expected.status().code()) << answer.status().message();
    if (expected.status().code() != 0) {
      return;
    }
    const Reader reader = MethodReaders().at(method).answer;
    EXPECT_TRUE(reader(expected.payload()));
    EXPECT_TRUE(reader(answer.payload()));
    if (method == "State") {
      const auto then = Parse<task_pb::StateResponse>(expected.payload());
      const auto now = Parse<task_pb::StateResponse>(answer.payload());
      // The recorder's processes take their time to end.
      const bool ended = then.status() == task_pb::RUNNING && now.status() == task_pb::STOPPED;
      EXPECT_TRUE(ended || then.status() == now.status()) << now.status();
    } else if (method == "Wait") {
      EXPECT_EQ(Parse<task_pb::WaitResponse>(answer.payload()).exit_status(),
                Parse<task_pb::WaitResponse>(expected.payload()).exit_status());
    } else if (method == "Delete") {
      EXPECT_EQ(Parse<task_pb::DeleteResponse>(answer.payload()).exit_status(),
                Parse<task_pb::DeleteResponse>(expected.payload()).exit_status());
    } else if (method == "Stats") {
      EXPECT_EQ(Parse<task_pb::StatsResponse>(answer.payload()).stats().type_url(),
                "io.containerd.cgroups.v2.Metrics");
    }
    ExpectFieldsOf(expected.payload(), answer.payload());
  }

  std::vector<std::string> init_;
  std::map<uint32_t, std::string> asked_;     // stream → method
  std::map<uint32_t, std::string> answered_;  // stream → response
  std::map<uint32_t, wire::Response> recorded_;
  std::vector<std::unique_ptr<FifoReader>> readers_;
};

TEST_P(TranscriptTest, EveryRequestIsKnownAndAnsweredAsThatContainerdExpects) {
  const std::string stem = GetParam().substr(0, GetParam().size() - std::string("1.hex").size());
  for (int connection = 1; Play(stem + std::to_string(connection) + ".hex"); ++connection) {
    if (HasFailure()) {
      return;
    }
  }
  EXPECT_TRUE(methods_.contains("Create"));
  EXPECT_EQ(services_.size(), 1U);
  for (int i = 0; i < 500 && !shut_down_; ++i) {  // it comes just after the answer
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_TRUE(shut_down_);  // each of these lives was seen to its end
}

INSTANTIATE_TEST_SUITE_P(Recorded, TranscriptTest, ::testing::ValuesIn(AllFiles("-1.hex")),
                         ParamName);

// The parameter is the file of a `start`.
class TranscriptLaunchTest : public ::testing::TestWithParam<std::string> {
 protected:
  TranscriptLaunchTest() : home_(MakeHome()), events_(home_ + "/c.sock.ttrpc") {}

  TranscriptLaunchTest(const TranscriptLaunchTest&) = delete;
  TranscriptLaunchTest& operator=(const TranscriptLaunchTest&) = delete;

  ~TranscriptLaunchTest() override {
    if (const pid_t pid = socket_.empty() ? 0 : ListenerPid(socket_); pid > 0 && pid != getpid()) {
      kill(pid, SIGKILL);
    }
    std::error_code error;
    std::filesystem::remove_all(home_, error);
  }

  // Our binary with the recorded arguments, environment and stdin.
  CommandOutput Launch(const Transcript& transcript) {
    WV_CHECK(transcript.spoken.size() == 2);
    const UniqueFd memory = Must(MakeMemfd("stdin", 0));
    EXPECT_TRUE(WriteAll(memory, transcript.spoken[0].bytes));
    EXPECT_EQ(lseek(memory.get(), 0, SEEK_SET), 0);
    SpawnOptions options;
    options.argv = {WV_FAKE_SHIM};
    const std::vector<std::string>& words = transcript.words.at("argv");
    options.argv.insert(options.argv.end(), words.begin(), words.end());
    options.env = {"PATH=/usr/bin:/bin", "WYVERN_SHIM_SOCKET_DIR=" + home_ + "/s"};
    if (const auto env = transcript.words.find("env"); env != transcript.words.end()) {
      options.env.insert(options.env.end(), env->second.begin(), env->second.end());
    }
    options.cwd = transcript.words.at("cwd").at(0);
    if (!options.cwd.starts_with(home_)) {
      options.cwd = home_;  // -info: containerd's own
    } else {
      WriteBundle(options.cwd, {"/bin/true"});
    }
    options.fds = {{0, memory}};
    return Must(RunCommand(options, 15000));
  }

  std::string home_;
  FakeEvents events_;
  std::string socket_;
};

TEST_P(TranscriptLaunchTest, StartAnswersInTheDialectOfThatContainerdAndDeleteDoes) {
  const Transcript start = ReadTranscript(GetParam(), home_);
  const std::string& recorded = start.spoken[1].bytes;
  const CommandOutput output = Launch(start);
  ASSERT_EQ(output.status.AsShell(), 0) << output.err;
  EXPECT_EQ(output.err, "");
  std::string address = output.out;
  if (!recorded.starts_with("unix://")) {
    EXPECT_TRUE(ParsesAndIsKnown<boot::BootstrapParams>(start.spoken[0].bytes));
    EXPECT_TRUE(ParsesAndIsKnown<boot::BootstrapResult>(output.out));
    ExpectFieldsOf(recorded, output.out);
    const auto expected = Parse<boot::BootstrapResult>(recorded);
    const auto answer = Parse<boot::BootstrapResult>(output.out);
    EXPECT_EQ(answer.version(), expected.version());
    EXPECT_EQ(answer.protocol(), expected.protocol());
    address = answer.address();
  } else {
    EXPECT_TRUE(ParsesAndIsKnown<pb::Any>(start.spoken[0].bytes));
  }
  ASSERT_TRUE(address.starts_with("unix:///")) << address;
  EXPECT_EQ(address.find('\n'), std::string::npos);
  socket_ = address.substr(7);
  EXPECT_TRUE(socket_.starts_with(home_)) << socket_;
  const auto client = Must(ttrpc::Client::Create(Must(ConnectUnix(socket_))));
  EXPECT_TRUE((client->Call<task_pb::ShutdownRequest, pb::Empty>("containerd.task.v2.Task",
                                                                 "Shutdown", {})));

  const std::string stem =
      GetParam().substr(0, GetParam().size() - std::string("start.hex").size());
  const Transcript remove = ReadTranscript(stem + "delete.hex", home_);
  const CommandOutput removed = Launch(remove);
  EXPECT_EQ(removed.status.AsShell(), 0) << removed.err;
  EXPECT_TRUE(ParsesAndIsKnown<task_pb::DeleteResponse>(removed.out));
  const auto response = Parse<task_pb::DeleteResponse>(removed.out);
  const auto recorded_response = Parse<task_pb::DeleteResponse>(remove.spoken[1].bytes);
  EXPECT_EQ(response.exit_status(), recorded_response.exit_status());
  EXPECT_GT(response.exited_at().seconds(), 0);
  EXPECT_EQ(response.pid(), 0U);  // nothing was created
}

INSTANTIATE_TEST_SUITE_P(Recorded, TranscriptLaunchTest,
                         ::testing::ValuesIn(AllFiles("-start.hex")), ParamName);

class TranscriptInfoTest : public TranscriptLaunchTest {};

TEST_P(TranscriptInfoTest, InfoHasWhatThatContainerdReads) {
  const Transcript info = ReadTranscript(GetParam(), home_);
  EXPECT_TRUE(ParsesAndIsKnown<pb::Any>(info.spoken[0].bytes));
  const CommandOutput output = Launch(info);
  EXPECT_EQ(output.status.AsShell(), 0) << output.err;
  EXPECT_EQ(output.err, "");
  EXPECT_TRUE(ParsesAndIsKnown<boot::RuntimeInfo>(output.out));
  ExpectFieldsOf(info.spoken[1].bytes, output.out);
}

INSTANTIATE_TEST_SUITE_P(Recorded, TranscriptInfoTest, ::testing::ValuesIn(AllFiles("/info.hex")),
                         ParamName);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(TranscriptInfoTest);  // since containerd 2

// The parameter is the file of a shim's connection to containerd.
class TranscriptEventsTest : public ::testing::TestWithParam<std::string> {};

TEST_P(TranscriptEventsTest, AnswersToEventsAreRead) {
  const Transcript transcript = ReadTranscript(GetParam(), kRecordedHome);
  std::vector<std::string> events;
  std::vector<std::string> answers;
  for (const Spoken& spoken : transcript.spoken) {
    const WireFrame frame = FrameOf(spoken.bytes);
    if (!spoken.by_containerd) {
      events.push_back(Parse<wire::Request>(frame.data).payload());
    } else if (frame.header.stream_id == 2 * answers.size() + 1) {  // the first connection
      EXPECT_TRUE(ParsesAndIsKnown<wire::Response>(frame.data));
      answers.push_back(spoken.bytes);
    }
  }
  ASSERT_FALSE(answers.empty());
  auto pair = Must(MakeSocketPair(SOCK_STREAM));
  std::thread containerd([&] {
    for (const std::string& answer : answers) {
      std::array<std::byte, ttrpc::kHeaderSize> head{};
      EXPECT_TRUE(ReadExact(pair.second, head));
      std::string data(ttrpc::DecodeHeader(head).length, '\0');
      EXPECT_TRUE(ReadExact(pair.second, std::as_writable_bytes(std::span(data))));
      EXPECT_TRUE(WriteAll(pair.second, answer));
    }
  });
  const auto client = Must(ttrpc::Client::Create(std::move(pair.first)));
  for (size_t i = 0; i < answers.size(); ++i) {
    using containerd::events::ForwardRequest;
    EXPECT_TRUE((client->Call<ForwardRequest, pb::Empty>(
        "containerd.services.events.ttrpc.v1.Events", "Forward", Parse<ForwardRequest>(events[i]),
        {.timeout = std::chrono::seconds(10)})));
  }
  containerd.join();
}

INSTANTIATE_TEST_SUITE_P(Recorded, TranscriptEventsTest,
                         ::testing::ValuesIn(AllFiles("-events.hex")), ParamName);

TEST(TranscriptsTest, FieldThatOurMessagesLackIsNoticedAtEveryDepth) {
  const std::string field_99("\x98\x06\x01", 3);
  task_pb::CreateTaskRequest create;
  create.set_id("c");
  create.add_rootfs()->set_type("bind");
  EXPECT_TRUE(ParsesAndIsKnown<task_pb::CreateTaskRequest>(create.SerializeAsString()));
  EXPECT_FALSE(ParsesAndIsKnown<task_pb::CreateTaskRequest>(create.SerializeAsString() + field_99));
  const std::string in_mount = "\x1a\x03" + field_99;  // rootfs = 3
  EXPECT_FALSE(ParsesAndIsKnown<task_pb::CreateTaskRequest>(in_mount));
  create.mutable_options()->set_type_url("runtimeoptions.v1.Options");
  create.mutable_options()->set_value(field_99);
  EXPECT_FALSE(ParsesAndIsKnown<task_pb::CreateTaskRequest>(create.SerializeAsString()));
}

TEST(TranscriptsTest, EveryGenerationIsThereWithEveryCallThatCtrMakes) {
  std::set<std::string> generations;
  for (const std::string& version : TranscriptVersions(WV_TRANSCRIPTS)) {
    SCOPED_TRACE(version);
    generations.insert(version.substr(0, version.find('.', version.find('.') + 1)));
    std::set<std::string> methods;
    for (const std::string& path : TranscriptFiles(WV_TRANSCRIPTS, version, ".hex")) {
      for (const Spoken& spoken : ReadTranscript(path, kRecordedHome).spoken) {
        // "containerd → shim: SERVICE METHOD, stream N"
        const size_t comma = spoken.comment.find(", stream");
        if (spoken.by_containerd && comma != std::string::npos) {
          const size_t space = spoken.comment.rfind(' ', comma);
          methods.insert(spoken.comment.substr(space + 1, comma - space - 1));
        }
      }
    }
    for (const auto& [method, readers] : MethodReaders()) {
      EXPECT_TRUE(method == "Update" || methods.contains(method)) << method;  // `ctr` has no Update
    }
  }
  EXPECT_TRUE(generations.contains("1.6"));
  EXPECT_TRUE(generations.contains("1.7"));
  EXPECT_TRUE(std::any_of(generations.begin(), generations.end(),
                          [](const std::string& each) { return each.starts_with("2."); }));
}

}  // namespace
}  // namespace wyvern::shim
