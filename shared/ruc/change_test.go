package ruc_test

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/rucflow/rucflow/shared/ruc"
)

func found(r ruc.Record) ruc.Answer {
	return ruc.Found(ruc.MustParse("20131312955"), r, time.Unix(1_700_000_000, 0), ruc.FuenteReplica, ruc.MotorChrome)
}

func changes(t *testing.T, before, after ruc.Answer) string {
	t.Helper()
	got, err := ruc.Changes(before, after)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestChanges(t *testing.T) {
	yes, no := true, false
	at := time.Unix(1_700_000_060, 0)
	missing := ruc.Missing(ruc.MustParse("20131312955"), at, ruc.FuenteReplica, ruc.MotorChrome)
	base := ruc.Record{
		RazonSocial: "A & B S.A.C.", Estado: "ACTIVO", Activo: true, FechaInscripcion: "2011-05-17",
		ActividadesEconomicas: []ruc.Actividad{{Tipo: "Principal", CIIU: "4690", Descripcion: "VENTA"}}, ComprobantesPago: []string{"FACTURA"},
	}
	with := func(f func(*ruc.Record)) ruc.Answer {
		r := base
		f(&r)
		return found(r)
	}
	for name, tc := range map[string]struct {
		before, after ruc.Answer
		want          string
	}{
		"none": {found(base), found(base), `null`},
		"in the order of the record": {
			found(base), with(func(r *ruc.Record) { r.FechaBaja, r.Activo, r.Estado = "2026-11-01", false, "BAJA & FIN" }),
			`[{"campo":"estado","antes":"ACTIVO","despues":"BAJA \u0026 FIN"},{"campo":"activo","antes":true,"despues":false},{"campo":"fechaBaja","antes":null,"despues":"2026-11-01"}]`,
		},
		"an item of a list": {
			found(base), with(func(r *ruc.Record) {
				r.ActividadesEconomicas = []ruc.Actividad{{Tipo: "Principal", CIIU: "4690", Descripcion: "COMPRA"}}
			}),
			`[{"campo":"actividadesEconomicas","antes":[{"tipo":"Principal","orden":0,"ciiu":"4690","descripcion":"VENTA"}],"despues":[{"tipo":"Principal","orden":0,"ciiu":"4690","descripcion":"COMPRA"}]}]`,
		},
		"an emptied list":    {found(base), with(func(r *ruc.Record) { r.ComprobantesPago = nil }), `[{"campo":"comprobantesPago","antes":["FACTURA"],"despues":[]}]`},
		"what was unsaid":    {found(base), with(func(r *ruc.Record) { r.AfectoNuevoRus = &no }), `[{"campo":"afectoNuevoRus","antes":null,"despues":false}]`},
		"equal pointers":     {with(func(r *ruc.Record) { r.AfectoNuevoRus = new(bool) }), with(func(r *ruc.Record) { r.AfectoNuevoRus = &no }), `null`},
		"different pointers": {with(func(r *ruc.Record) { r.AfectoNuevoRus = &yes }), with(func(r *ruc.Record) { r.AfectoNuevoRus = &no }), `[{"campo":"afectoNuevoRus","antes":true,"despues":false}]`},
		"the minute of the page": {
			found(base), with(func(r *ruc.Record) { r.FechaConsultaSunat = &at }), `null`,
		},
		"no longer found":          {found(base), missing, `[{"campo":"encontrado","antes":true,"despues":false}]`},
		"found again":              {missing, found(base), `[{"campo":"encontrado","antes":false,"despues":true}]`},
		"twice not found":          {missing, missing, `null`},
		"a list that was unknown":  {ruc.Answer{Encontrado: true, Record: &ruc.Record{}}, found(ruc.Record{}), `null`},
		"a field that was unknown": {ruc.Answer{Encontrado: true, Record: &ruc.Record{}}, found(ruc.Record{Ubigeo: "150122"}), `[{"campo":"ubigeo","antes":null,"despues":"150122"}]`},
	} {
		t.Run(name, func(t *testing.T) {
			if got := changes(t, tc.before, tc.after); got != tc.want {
				t.Errorf("%s", got)
			}
		})
	}
}

// What the huella covers is what is compared, field by field.
func TestChanges_AsTheHuella(t *testing.T) {
	kind := reflect.TypeFor[ruc.Record]()
	for i := range kind.NumField() {
		field := kind.Field(i)
		t.Run(field.Name, func(t *testing.T) {
			var r ruc.Record
			v := reflect.ValueOf(&r).Elem().Field(i)
			switch v.Kind() {
			case reflect.String:
				v.SetString("2026-11-01")
			case reflect.Bool:
				v.SetBool(true)
			case reflect.Pointer:
				v.Set(reflect.New(v.Type().Elem()))
			case reflect.Slice:
				v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			default:
				t.Fatalf("a field of kind %s", v.Kind())
			}
			before, after := found(ruc.Record{}), found(r)
			got, err := ruc.Changes(before, after)
			if err != nil {
				t.Fatal(err)
			}
			if material := before.Huella != after.Huella; (len(got) == 1) != material || len(got) > 1 {
				t.Errorf("material is %v, changes are %v", material, got)
			}
			if len(got) == 1 && field.Tag.Get("json") != got[0].Campo {
				t.Errorf("named %s", got[0].Campo)
			}
		})
	}
}
