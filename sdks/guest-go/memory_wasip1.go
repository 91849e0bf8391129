package guest

import (
	"encoding/binary"
	"math"
	"unsafe"
)

// lent holds the memory that the host reads or writes while it is called, by its address. Addresses
// have 32 bits here whatever the pointers of Go have, and nothing else keeps this memory alive.
var lent = map[uint32][]byte{}

// lend takes memory that lives until release, aligned to eight bytes as nothing needs more.
func lend(size uint32) (uint32, []byte) {
	words := make([]uint64, (uint64(size)+7)/8+1)
	start := unsafe.Pointer(unsafe.SliceData(words))
	bytes := unsafe.Slice((*byte)(start), size)
	address := uint32(uintptr(start))
	lent[address] = bytes
	return address, bytes
}

// release ends what was lent: whoever was called has copied it.
func release() { clear(lent) }

// cabiRealloc is how the host gets memory for what it hands over.
//
//go:wasmexport cabi_realloc
func cabiRealloc(old, oldSize, align, size uint32) uint32 {
	if size == 0 {
		return align
	}
	address, bytes := lend(size)
	copy(bytes, lent[old])
	delete(lent, old)
	return address
}

// area is memory that something is written to or read from, by offsets.
type area []byte

func (a area) u8(at uint32) uint8    { return a[at] }
func (a area) flag(at uint32) bool   { return a[at] != 0 }
func (a area) u32(at uint32) uint32  { return binary.LittleEndian.Uint32(a[at:]) }
func (a area) u64(at uint32) uint64  { return binary.LittleEndian.Uint64(a[at:]) }
func (a area) f32(at uint32) float32 { return math.Float32frombits(a.u32(at)) }

// list is what the list at `at` has in it, and how many; elements have `size` bytes.
func (a area) list(at, size uint32) (area, uint32) {
	address, count := a.u32(at), a.u32(at+4)
	return elements(address, count*size), count
}

func (a area) text(at uint32) string {
	bytes, _ := a.list(at, 1)
	return string(bytes)
}

// texts is the list of texts at `at`.
func (a area) texts(at uint32) []string {
	list, count := a.list(at, 8)
	texts := make([]string, count)
	for i := range texts {
		texts[i] = list.text(uint32(i) * 8)
	}
	return texts
}

func (a area) optionalU32(at uint32) *uint32 {
	if !a.flag(at) {
		return nil
	}
	number := a.u32(at + 4)
	return &number
}

func (a area) bytes(at uint32) []byte {
	bytes, _ := a.list(at, 1)
	return append([]byte(nil), bytes...)
}

func (a area) u32s(at uint32) []uint32 {
	list, count := a.list(at, 4)
	numbers := make([]uint32, count)
	for i := range numbers {
		numbers[i] = list.u32(uint32(i) * 4)
	}
	return numbers
}

// elements is memory that the host was lent at `address`.
func elements(address, size uint32) area {
	if size == 0 {
		return nil
	}
	return lent[address][:size]
}

func (a area) putU8(at uint32, value uint8)    { a[at] = value }
func (a area) putU32(at, value uint32)         { binary.LittleEndian.PutUint32(a[at:], value) }
func (a area) putU64(at uint32, value uint64)  { binary.LittleEndian.PutUint64(a[at:], value) }
func (a area) putF32(at uint32, value float32) { a.putU32(at, math.Float32bits(value)) }

func (a area) putFlag(at uint32, value bool) { a.putU8(at, bit(value)) }

func (a area) putText(at uint32, text string) {
	address, count := lendText(text)
	a.putU32(at, address)
	a.putU32(at+4, count)
}

// putOption writes whether there is something, and where there is what `put` writes behind that.
func (a area) putOption(at uint32, is bool, put func()) {
	a.putFlag(at, is)
	if is {
		put()
	}
}

func (a area) putList(at, address uint32, count int) {
	a.putU32(at, address)
	a.putU32(at+4, uint32(count))
}

func lendText(text string) (address, count uint32) {
	address, bytes := lend(uint32(len(text)))
	copy(bytes, text)
	return address, uint32(len(text))
}

// lendList lends a list of what `put` writes of each element, `size` bytes each.
func lendList[T any](list []T, size uint32, put func(a area, value T)) (address, count uint32) {
	address, bytes := lend(uint32(len(list)) * size)
	for i, value := range list {
		put(bytes[uint32(i)*size:], value)
	}
	return address, uint32(len(list))
}

func lendU32s(list []uint32) (address, count uint32) {
	return lendList(list, 4, func(a area, value uint32) { a.putU32(0, value) })
}

func bit(flag bool) uint8 {
	if flag {
		return 1
	}
	return 0
}
