// wyvern-cri SOCKET METHOD [SECONDS] — one call of a container runtime interface: the request as JSON on stdin, the answer as JSON on stdout. For
// tests: Debian has no client of it. Exit code 1: the error's number and text on stderr; 2: wrong use.
#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <google/protobuf/util/json_util.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdlib>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "cri.pb.h"

namespace {

namespace pb = google::protobuf;

constexpr int kWrongUse = 2;
constexpr int kMaxMessage = 64 << 20;

const pb::MethodDescriptor* FindMethod(const std::string& name) {
  const pb::FileDescriptor* file = runtime::v1::Empty::descriptor()->file();
  for (int i = 0; i < file->service_count(); ++i) {
    if (const auto* method = file->service(i)->FindMethodByName(name); method != nullptr) {
      return method;
    }
  }
  return nullptr;
}

std::unique_ptr<pb::Message> NewMessage(const pb::Descriptor* type) {
  return std::unique_ptr<pb::Message>(
      pb::MessageFactory::generated_factory()->GetPrototype(type)->New());
}

grpc::Status Call(const std::string& socket, const std::string& path, std::chrono::seconds patience,
                  const std::string& request, std::string* answer) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessage);
  grpc::GenericStub stub(
      grpc::CreateCustomChannel("unix:" + socket, grpc::InsecureChannelCredentials(), arguments));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + patience);
  const grpc::Slice slice(request);
  const grpc::ByteBuffer sent(&slice, 1);
  grpc::CompletionQueue queue;
  const auto call = stub.PrepareUnaryCall(&context, path, sent, &queue);
  grpc::ByteBuffer received;
  grpc::Status status;
  call->StartCall();
  call->Finish(&received, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  std::vector<grpc::Slice> slices;
  if (status.ok() && received.Dump(&slices).ok()) {
    for (const grpc::Slice& part : slices) {
      answer->append(reinterpret_cast<const char*>(part.begin()), part.size());
    }
  }
  return status;
}

int Main(const std::string& socket, const std::string& name, std::chrono::seconds patience) {
  const pb::MethodDescriptor* method = FindMethod(name);
  if (method == nullptr) {
    std::cerr << "no such method: " << name << "\n";
    return kWrongUse;
  }
  const std::string text(std::istreambuf_iterator<char>(std::cin), {});
  const auto request = NewMessage(method->input_type());
  if (const auto parsed = pb::util::JsonStringToMessage(text, request.get()); !parsed.ok()) {
    std::cerr << "the request: " << parsed.ToString() << "\n";
    return kWrongUse;
  }
  std::string answer;
  const std::string path = "/" + method->service()->full_name() + "/" + method->name();
  const grpc::Status status = Call(socket, path, patience, request->SerializeAsString(), &answer);
  if (!status.ok()) {
    std::cerr << status.error_code() << " " << status.error_message() << "\n";
    return 1;
  }
  const auto response = NewMessage(method->output_type());
  std::string out;
  pb::util::JsonPrintOptions options;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  if (!response->ParseFromString(answer) ||
      !pb::util::MessageToJsonString(*response, &out, options).ok()) {
    std::cerr << "the answer cannot be read\n";
    return 1;
  }
  std::cout << out << "\n";
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3 || argc > 4) {
    std::cerr << "usage: wyvern-cri SOCKET METHOD [SECONDS] < request.json\n";
    return kWrongUse;
  }
  constexpr int kDefaultSeconds = 120;
  const int seconds = argc == 4 ? std::atoi(argv[3]) : kDefaultSeconds;
  return Main(argv[1], argv[2], std::chrono::seconds(seconds));
}
