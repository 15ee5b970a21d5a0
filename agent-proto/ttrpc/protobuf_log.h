// agent-proto/ttrpc/protobuf_log.h — what libprotobuf has to say goes through our log, a few lines in ten seconds.
// Without it the library writes a line to stderr for each string that is no UTF-8: whoever sends
// such strings, a client or a guest, could fill the log of the process that reads them.
#pragma once

namespace wyvern::ttrpc {

// For the whole process; call once at start, before threads (google::protobuf::SetLogHandler).
void LimitProtobufLog();

}  // namespace wyvern::ttrpc
