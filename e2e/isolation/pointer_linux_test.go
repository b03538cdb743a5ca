package isolation

import "unsafe"

// pointer is for structures that the kernel reads and writes.
func pointer[T any](value *T) unsafe.Pointer { return unsafe.Pointer(value) }
