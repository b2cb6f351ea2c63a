// Lets the process end without cutting off client threads in the middle of a run.
#pragma once

namespace top {

// A client thread of the interpreter while it is inside the runtime. Once the gate is closed nobody
// enters any more: such a thread sleeps until the process ends. (A daemon thread that came back
// from the runtime to an interpreter that is gone would be unwound by force, through C++ frames
// that do not allow it, and abort the process.)
class ClientInside {
 public:
  ClientInside();
  ~ClientInside();
  ClientInside(const ClientInside&) = delete;
  ClientInside& operator=(const ClientInside&) = delete;
};

// Closes the gate for good and returns when nobody is inside. A child process after fork() has no
// clients but the thread that forked; its gate opens anew.
void close_client_gate();

}  // namespace top
