//go:build health

package guest

//go:wasmexport realm:tenant/health@0.1.0#check
func exportCheck() uint32 {
	err := checkHealth()
	address, result := results(12)
	if err != nil {
		result.putU8(0, 1)
		result.putText(4, err.Error())
	}
	return address
}

//go:wasmexport cabi_post_realm:tenant/health@0.1.0#check
func postCheck(uint32) { release() }
